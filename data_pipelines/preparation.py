"""Builds a data set, reads it back, exports or packs it, and summarises it."""

import argparse
import contextlib
import hashlib
import io
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from data_pipelines import packed
from data_pipelines.tfds_ir_vis import BUILDERS, FolderConfig, PairBuilder
from hkdnet_jax.common.errors import UserError, listing
from hkdnet_jax.common.image_files import gray_of_bytes, to_8_bit
from hkdnet_jax.common.image_formats import read_header

_SIDES = {"ir": "infrared", "vis": "visible"}
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "BMP": ".bmp", "TIFF": ".tif"}
_SUFFIXES |= {"WebP": ".webp", "PNM": ".pnm", "PFM": ".pfm", "NPY": ".npy"}


def run(args: argparse.Namespace) -> int:
    """Prepares the data set that the command's flags name.

    Returns:
      The exit code: 0 only if no pair had to be left out.

    Raises:
      UserError: a flag cannot be used, or files cannot be fetched or written.
    """
    _check_new("--export", args.export)
    _check_new("--pack", args.pack)
    if args.pack and args.export == args.pack:
        raise UserError(f"--export and --pack both name {args.pack}; name two folders.")
    builder = _prepared(args)
    tally = Tally()
    with _new_folder("--export", args.export) as folder:
        for record in _records(builder):
            tally.add(record)
            if folder:
                _write(record, folder)
        if folder:
            _write_lists(tally, folder)
    with _new_folder("--pack", args.pack) as folder:
        if folder:
            names = [name for names in tally.names.values() for name in names]
            sizes = [(height, width) for width, height in tally.sizes]
            entries = list(zip(names, sizes, strict=True))
            packed.write(folder, entries, map(_decoded, _records(builder)))
            _write_lists(tally, folder)
    print(_summary(builder, tally, args.export, args.pack))
    return 1 if builder.info.metadata["left_out"] else 0


def _check_new(flag: str, target: Path | None) -> None:
    # Images of an earlier export would become part of this one.
    empty = target is None or not target.exists()
    if not (empty or (target.is_dir() and not any(target.iterdir()))):
        raise UserError(f"{flag} {target} already exists; name a new folder.")


# --- building -----------------------------------------------------------------------


def _prepared(args: argparse.Namespace) -> PairBuilder:
    """The builder, whose records have been written now or by an earlier run."""
    if args.manual_dir and not args.manual_dir.is_dir():
        raise UserError(f"--manual_dir {args.manual_dir} is not a folder.")
    try:
        args.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--data_dir {args.data_dir} cannot be created ({error.strerror}); name "
            "another folder."
        ) from error
    modes = tfds.GenerateMode
    mode = modes.REUSE_DATASET_IF_EXISTS
    options = {}
    if args.dataset == "pairs":
        options["config"] = _folders(args)
        # The user's folders may change, and records of their old content would mislead.
        mode = modes.REUSE_CACHE_IF_EXISTS
    elif args.ir or args.vis:
        raise UserError(
            f"--ir and --vis are for --dataset pairs, not for {args.dataset}; give "
            "--manual_dir for files that you fetched yourself."
        )
    builder = BUILDERS[args.dataset](data_dir=str(args.data_dir), **options)
    if builder.data_path.exists() and mode == modes.REUSE_DATASET_IF_EXISTS:
        print(f"Already prepared; delete {builder.data_path} to rebuild it.")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            manual_dir=args.manual_dir, download_mode=mode, try_download_gcs=False
        )
    )
    return builder


def _folders(args: argparse.Namespace) -> FolderConfig:
    """The two folders to pair, under a name that no other two folders get."""
    if args.manual_dir and not (args.ir or args.vis):
        ir, vis = args.manual_dir / "ir", args.manual_dir / "vis"
    else:
        ir, vis = args.ir, args.vis
    if not (ir and vis):
        raise UserError(
            "--dataset pairs needs two folders; give --ir DIR and --vis DIR, or "
            "--manual_dir DIR if DIR holds ir/ and vis/."
        )
    ir, vis = ir.resolve(), vis.resolve()
    title = ir.parent.name if ir.parent == vis.parent else ir.name
    digest = hashlib.sha256(f"{ir}\n{vis}".encode()).hexdigest()[:8]
    name = f"{re.sub(r'[^A-Za-z0-9]+', '_', title)}_{digest}"
    return FolderConfig(name=name, ir=str(ir), vis=str(vis))


# --- reading back -------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """One stored pair; `images` has the bytes of both files under "ir" and "vis"."""

    split: str
    name: str
    images: dict[str, bytes]


def _records(builder: PairBuilder) -> Iterator[Record]:
    raw = {side: tfds.decode.SkipDecoding() for side in _SIDES}
    for split in builder.info.splits:
        source = builder.as_data_source(split, decoders=raw)
        for item in tqdm(source, desc=f"reading {split}", unit="pair", disable=None):
            images = {side: item[side] for side in _SIDES}
            yield Record(split, item["name"].decode(), images)


@contextlib.contextmanager
def _new_folder(flag: str, target: Path | None) -> Iterator[Path | None]:
    """A folder to fill, which becomes `target` only if the block raises nothing."""
    if target is None:
        yield None
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(
            dir=target.parent, prefix=f".{target.name}."
        )
    except OSError as error:
        raise UserError(
            f"{flag} {target} cannot be created ({error.strerror}); name another "
            "folder."
        ) from error
    with scratch as parent:
        folder = Path(parent) / "new"
        folder.mkdir()
        yield folder
        if target.exists():
            target.rmdir()
        folder.rename(target)


def _write(record: Record, folder: Path) -> None:
    for side, content in record.images.items():
        suffix = _SUFFIXES[read_header(io.BytesIO(content)).format]
        file = folder / side / f"{record.name}{suffix}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)


def _decoded(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """The infrared and the visible image, uint8 [H, W], as training reads them."""
    ir, vis = (
        to_8_bit(gray_of_bytes(record.images[side], f"{side} of {record.name}"))
        for side in _SIDES
    )
    return ir, vis


def _write_lists(tally: "Tally", folder: Path) -> None:
    """Writes the names of each split, if there are several."""
    if len(tally.names) > 1:
        for split, names in tally.names.items():
            text = "".join(f"{name}\n" for name in names)
            (folder / f"{split}.txt").write_text(text, encoding="utf-8")


# --- summary ------------------------------------------------------------------------


@dataclass
class Tally:
    """The figures of the summary, read from the headers of the images.

    Attributes:
      names: names of the pairs by split.
      sizes: (width, height) of each pair, in pixels.
      depths: number of images by (side, bits per sample).
      colours: number of images by (side, colour as stored).
    """

    names: dict[str, list[str]] = field(default_factory=dict)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    depths: Counter = field(default_factory=Counter)
    colours: Counter = field(default_factory=Counter)

    def add(self, record: Record) -> None:
        """Counts one record."""
        self.names.setdefault(record.split, []).append(record.name)
        for side, content in record.images.items():
            header = read_header(io.BytesIO(content))
            self.depths[side, header.bits] += 1
            self.colours[side, header.colour] += 1
        self.sizes.append(header.upright_size[::-1])


def _summary(
    builder: PairBuilder, tally: Tally, export: Path | None, pack: Path | None
) -> str:
    def counts(counter: Counter, unit: str = "") -> str:
        return ", ".join(
            f"{_SIDES[side]} {value}{unit} ({number})"
            for (side, value), number in sorted(counter.items())
        )

    by_area = sorted(tally.sizes, key=lambda size: (size[0] * size[1], size))
    picked = (by_area[0], by_area[len(by_area) // 2], by_area[-1])
    rows = {
        "Data set": f"{builder.info.full_name}: {builder.FACTS.title}",
        "Pairs": ", ".join(f"{s} {len(names)}" for s, names in tally.names.items()),
        "Size": " / ".join(f"{w}x{h}" for w, h in picked)
        + " (width x height; min / median / max by area)",
        "Bit depth": counts(tally.depths, " bit"),
        "Colour": counts(tally.colours),
        "Records": str(builder.data_path),
        "Licence": builder.FACTS.licence,
        "Cite": builder.FACTS.citation,
    }
    data_set = builder.info.full_name.rpartition("/")[0]
    rows["Train with"] = (
        f"--config.data.tfds={'+'.join(f'{data_set}:{split}' for split in tally.names)}"
        f" --config.data.tfds_dir={builder.data_dir_root}"
    )
    if export:
        rows["Exported"] = f"{export} (train with --config.data.roots={export})"
    if pack:
        rows["Packed"] = f"{pack} (train with --config.data.roots={pack})"
    flaws = builder.info.metadata["known_flaws"]
    left_out = builder.info.metadata["left_out"]
    if flaws:
        rows["Left out"] = f"{len(flaws)}, known flaws: {listing(flaws)}"
    if left_out:
        rows["Left out!"] = f"{len(left_out)}, fix or remove them: {listing(left_out)}"
    width = max(map(len, rows)) + 1
    return "\n".join(f"{f'{k}:':{width}} {v}" for k, v in rows.items() if v)
