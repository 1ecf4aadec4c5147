"""All methods by name: fusions, enlargements, any pair of them, and joint methods."""

from collections.abc import Callable
from functools import partial

from hkdnet_jax.baselines import (
    cen,
    cnn_fusion,
    densefuse,
    edsr,
    imdn,
    li,
    ours,
    rcan,
    simple,
    super_resolution,
    yin,
)
from hkdnet_jax.baselines.types import Enlargement, Fusion, Image, Method
from hkdnet_jax.baselines.weights import Weights
from hkdnet_jax.common.errors import UserError

FUSIONS: dict[str, Callable[[Weights], Fusion]] = {
    "average": lambda weights: simple.average,
    "cnn": cnn_fusion.load,
    "densefuse": partial(densefuse.load, rule="addition"),
    "densefuse_l1": partial(densefuse.load, rule="l1"),
    "teacher": lambda weights: ours.teacher(),
}
ENLARGEMENTS: dict[str, Callable[[Weights], Enlargement]] = {
    "bicubic": lambda weights: simple.bicubic,
    "edsr": partial(super_resolution.load, name="edsr", network_class=edsr.EDSR),
    "rcan": partial(super_resolution.load, name="rcan", network_class=rcan.RCAN),
    "imdn": partial(super_resolution.load, name="imdn", network_class=imdn.IMDN),
}
JOINT: dict[str, Callable[[Weights], Method]] = {
    "yin": yin.load,
    "li": lambda weights: li.fuse,
    "cen": cen.load,
    "lite": lambda weights: ours.lite(),
    "lite_any": ours.lite_any,
}
# The rows of Table I that exist here, the paper's order; ours is the last.
TABLE1 = ("cnn+edsr", "cnn+rcan", "densefuse+rcan", "yin", "li", "cen", "lite")
ANY_SCALE = ("+bicubic", "cen", "lite_any")  # endings of the names that do halves too
ALL = (*(f"{a}+{b}" for a in FUSIONS for b in ENLARGEMENTS), *JOINT)


def select(spec: str) -> tuple[str, ...]:
    """Returns the methods that `table1`, `all` or a comma-separated list stands for.

    Raises:
      UserError: a name is not that of a method, or is given twice.
    """
    if spec in ("table1", "all"):
        return TABLE1 if spec == "table1" else ALL
    names = tuple(name.strip() for name in spec.split(","))
    wrong = [name for name in names if name not in ALL or names.count(name) > 1]
    if wrong:
        raise UserError(
            f"--methods {spec}: {wrong[0]!r} is not a method or is given twice; give "
            f"table1, all, one of {', '.join(JOINT)}, or FUSION+ENLARGEMENT with one "
            f"of {', '.join(FUSIONS)} and one of {', '.join(ENLARGEMENTS)}."
        )
    return names


def find(name: str, weights: Weights) -> Method:
    """Returns a method, one of ALL, ready to run.

    At scale 1 a method of two steps is its fusion alone.

    Raises:
      UserError: its weights are missing or others.  (Those of a scale are looked up
        when the method is called with it.)
    """
    method = _find(name, weights)

    def checked(ir: Image, vis: Image, scale: float) -> Image:
        if scale % 1 and not name.endswith(ANY_SCALE):
            raise UserError(
                f"{name} cannot enlarge {scale} times: give a whole scale; others are "
                f"for {', '.join(ANY_SCALE)}."
            )
        return method(ir, vis, scale)

    return checked


def _find(name: str, weights: Weights) -> Method:
    if name in JOINT:
        return JOINT[name](weights)
    fusion, enlargement = name.split("+")
    fuse, enlarge = FUSIONS[fusion](weights), ENLARGEMENTS[enlargement](weights)

    def both(ir: Image, vis: Image, scale: int) -> Image:
        fused = fuse(ir, vis)
        return fused if scale == 1 else enlarge(fused, scale)

    return both
