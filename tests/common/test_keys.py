"""Keys: what is within their limits, and how mappings become groups of them."""

import dataclasses

import pytest

from hkdnet_jax.common import keys
from hkdnet_jax.common.keys import key
from hkdnet_jax.training import config as run_config


@dataclasses.dataclass(frozen=True)
class Group:
    count: int = key(3, "how many", at_least=1)
    share: float = key(0.5, "of the whole", above=0.0, below=1.0)
    kind: str = key("a", "which", choices=("a", "b"))
    sizes: tuple[int, ...] = key((1, 2), "of each")
    rate: float | None = key(None, "may be left out", at_least=0.0)
    inner: object = dataclasses.field(default=None)


@pytest.mark.parametrize(
    ("values", "remedies"),
    [
        ({}, []),
        ({"count": 0}, ["it must be at least 1"]),
        ({"count": 1, "share": 0.999}, []),
        ({"share": 0.0}, ["it must be above 0"]),
        ({"share": 1.0}, ["it must be below 1"]),
        ({"share": float("nan")}, ["it must be a finite number"]),
        ({"share": float("inf")}, ["it must be a finite number"]),
        ({"kind": "c"}, ["it must be one of a, b"]),
        ({"count": True}, ["it must be of type int"]),
        ({"count": 2.0}, ["it must be of type int"]),
        ({"sizes": [1]}, ["it must be of type tuple"]),
        ({"rate": 0.0}, []),
        ({"rate": -1.0}, ["it must be at least 0"]),
        ({"count": 0, "kind": 3}, ["it must be at least 1", "it must be of type str"]),
    ],
)
def test_problems(values, remedies):
    found = list(keys.problems(Group(**values)))
    assert [remedy for _, _, remedy in found] == remedies
    assert all(values[name] is value for name, value, _ in found)


def test_a_mapping_of_json_becomes_a_group():
    group = keys.from_mapping(Group, {"share": 1, "sizes": [3], "count": 2})
    assert group == Group(count=2, share=1.0, sizes=(3,))
    assert type(group.share) is float
    with pytest.raises(ValueError, match="there is no key 'shares'"):
        keys.from_mapping(Group, {"shares": 1})


def test_limits_in_words():
    limits = keys.limits_of(Group)
    assert list(limits) == ["count", "share", "kind", "sizes", "rate"]
    assert limits["share"].range() == "above 0, below 1"
    assert limits["kind"].range() == "a | b"
    assert limits["sizes"].range() == ""


def test_every_default_of_a_run_is_within_its_limits():
    config = run_config.default_config()
    groups = dict(run_config.groups(config))
    assert list(groups) == [
        "",
        "teacher.",
        "data.",
        "train.",
        "optim.",
        "loss.",
        "mesh.",
    ]
    assert not [
        problem for group in groups.values() for problem in keys.problems(group)
    ]
    assert run_config.model_of(config) == run_config.PRESETS["full"]
    # Each key is in the list, and the list has no other.
    listed = [line.split("=")[0].strip() for line in run_config.listing().splitlines()]
    flat = [f"--config.{path}" for path in _paths(config)]
    assert sorted(listed) == sorted(flat)


def _paths(config, prefix=""):
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from _paths(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
