"""A sheet that compares bicubic enlargement with our student on procedural scenes."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from data_pipelines import scenes
from hkdnet_jax import pretrained
from hkdnet_jax.common import image_files
from hkdnet_jax.common.atomic_files import make_writable, write_atomically
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import read_gray
from hkdnet_jax.common.pair_files import Pair, match_folders
from hkdnet_jax.evaluation.pictures import as_batch, degrade_picture, enlarge
from hkdnet_jax.inference import folder
from hkdnet_jax.inference.jobs import Job
from hkdnet_jax.inference.pair import fuse_pair
from hkdnet_jax.losses import quality
from hkdnet_jax.model_files.model import Model

SCALE = 2
SEED = 0  # of the scenes
SHOWN = 4  # scenes on the sheet
SIZE = (192, 256)  # height and width of the high-resolution pictures, in pixels
CAPTION = 16  # height of the caption above each picture, in pixels


def draw(out: Path) -> Path:
    """Fuses low-resolution scenes and draws them beside bicubic enlargement.

    Args:
      out: folder for the scenes, the fused pictures and the sheet.

    Returns:
      The file of the sheet.

    Raises:
      UserError: the folder cannot be written to, or a pair cannot be fused.
    """
    make_writable(out)
    scenes.write_pairs(out / "high", SEED, 0, SHOWN, *SIZE)
    for modality in ("ir", "vis"):
        make_writable(out / "low" / modality)
        for file in sorted((out / "high" / modality).glob("*.png")):
            small = out / "low" / modality / file.name
            picture = degrade_picture(read_gray(file), SCALE)
            write_atomically(small, image_files.encode(picture, small))
    teacher, student = pretrained.load(1), pretrained.load(SCALE)
    pairs, problems = match_folders(out / "low" / "ir", out / "low" / "vis")
    jobs = [Job(pair, out / "fused" / f"{pair.name}.png") for pair in pairs]
    problems += folder.fuse_files(student, jobs)
    if problems:
        raise UserError(problems[0])
    rows = [_row(out, pair, teacher) for pair in pairs]
    sheet = out / "comparison.png"
    write_atomically(sheet, image_files.encode(np.vstack(rows), sheet))
    return sheet


def _row(out: Path, pair: Pair, teacher: Model) -> np.ndarray:
    """One row of the sheet, uint8: IR, VIS, the teacher's fusion enlarged, ours."""
    name = f"{pair.name}.png"
    ir, vis = (read_gray(out / "high" / m / name) for m in ("ir", "vis"))
    label = fuse_pair(teacher, ir, vis)
    low_ir, low_vis = read_gray(pair.ir), read_gray(pair.vis)
    low_fused = fuse_pair(teacher, low_ir, low_vis)
    bicubic = enlarge(low_fused, SCALE)
    ours = read_gray(out / "fused" / name)
    enlarged = (
        np.kron(low, np.ones((SCALE, SCALE), np.uint8)) for low in (low_ir, low_vis)
    )
    captions = (
        "IR, low resolution",
        "VIS, low resolution",
        f"teacher, then bicubic: {_psnr(bicubic, label):.1f} dB",
        f"ours: {_psnr(ours, label):.1f} dB",
    )
    pictures = zip(captions, (*enlarged, bicubic, ours), strict=True)
    return np.hstack([_captioned(text, picture) for text, picture in pictures])


def _psnr(image: np.ndarray, label: np.ndarray) -> float:
    return float(quality.psnr(as_batch(image), as_batch(label))[0])


def _captioned(text: str, picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape
    canvas = Image.new("L", (width, height + CAPTION), 255)
    ImageDraw.Draw(canvas).text((4, 2), text, fill=0)
    canvas.paste(Image.fromarray(picture), (0, CAPTION))
    return np.asarray(canvas)
