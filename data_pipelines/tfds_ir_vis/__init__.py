"""TFDS builders of infrared/visible data sets, written to array_record.

`BUILDERS` maps the names that ``python -m data_pipelines.prepare --dataset`` takes to
the builders.  Records are ``{ir, vis, name}``; see `base.PairBuilder`.
"""

from data_pipelines.tfds_ir_vis.base import Facts, PairBuilder, StoredImage
from data_pipelines.tfds_ir_vis.datasets import (
    FlirAdas,
    FolderConfig,
    Kaist,
    Llvip,
    M3fd,
    Msrs,
    Pairs,
    RoadScene,
    Tno,
    Vlirvdif,
)

BUILDERS: dict[str, type[PairBuilder]] = {
    builder.name: builder
    for builder in (
        *(Tno, Vlirvdif, RoadScene, Msrs, Llvip, M3fd, FlirAdas, Kaist, Pairs),
    )
}

__all__ = ["BUILDERS", "Facts", "FolderConfig", "PairBuilder", "Pairs", "StoredImage"]
