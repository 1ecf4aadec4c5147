"""Inputs of position attention, its average in NumPy, and the sizes in a jaxpr."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr


def features(n=2, h=5, w=7, c=3, seed=0, size=1.0):
    values = size * np.random.default_rng(seed).normal(size=(n, h, w, c))
    return jnp.asarray(values, jnp.float32)


def separate(h, w):
    """Queries and keys of 2 channels, values of 5, in no way alike."""
    return [features(h=h, w=w, c=c, seed=seed) for c, seed in ((2, 1), (2, 2), (5, 3))]


def numpy_average(query, key, value, softmax):
    """The same in float64 NumPy, an image at a time."""
    out = []
    for q, k, v in zip(query, key, value, strict=True):
        q, k, v = (
            np.asarray(x, np.float64).reshape(-1, x.shape[-1]) for x in (q, k, v)
        )
        weights = np.exp(q @ k.T)
        total = weights.sum() if softmax == "joint" else weights.sum(1, keepdims=True)
        out.append((weights / total @ v).reshape(*query.shape[1:3], -1))
    return np.stack(out)


def inner_jaxprs(eqn):
    for inner in jax.tree.leaves(list(eqn.params.values())):
        if isinstance(inner, ClosedJaxpr):
            yield inner.jaxpr
        elif isinstance(inner, Jaxpr):
            yield inner


def sizes(jaxpr):
    """Element counts of everything a jaxpr computes, inner jaxprs included."""
    for eqn in jaxpr.eqns:
        yield from (v.aval.size for v in eqn.outvars)
        for inner in inner_jaxprs(eqn):
            yield from sizes(inner)
