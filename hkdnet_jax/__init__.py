"""HKDnet in JAX: joint infrared-visible image fusion and super-resolution.

    model = hkdnet_jax.load(scale=2)
    picture = hkdnet_jax.fuse_pair(model, ir, vis)  # uint8 [2 * H, 2 * W]

Importing the package loads nothing else: each name is loaded on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hkdnet_jax.common.errors import UserError
    from hkdnet_jax.exported.publishing import push
    from hkdnet_jax.inference.alignment import align
    from hkdnet_jax.inference.pair import fuse_pair
    from hkdnet_jax.inference.video import fuse_video
    from hkdnet_jax.model_files.model import Model
    from hkdnet_jax.pretrained import load

    __version__: str

__all__ = [
    "Model",
    "UserError",
    "__version__",
    "align",
    "fuse_pair",
    "fuse_video",
    "load",
    "push",
]

_MODULES = {
    "Model": "hkdnet_jax.model_files.model",
    "UserError": "hkdnet_jax.common.errors",
    "align": "hkdnet_jax.inference.alignment",
    "fuse_pair": "hkdnet_jax.inference.pair",
    "fuse_video": "hkdnet_jax.inference.video",
    "load": "hkdnet_jax.pretrained",
    "push": "hkdnet_jax.exported.publishing",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value = _version()
    elif name in _MODULES:
        value = getattr(importlib.import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    """The installed version, or that of pyproject.toml in an uninstalled checkout."""
    import tomllib
    from importlib import metadata
    from pathlib import Path

    try:
        return metadata.version("hkdnet-jax")
    except metadata.PackageNotFoundError:
        pyproject = Path(__file__).parents[1] / "pyproject.toml"
        return tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"][
            "version"
        ]
