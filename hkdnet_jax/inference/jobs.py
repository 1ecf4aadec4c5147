"""What there is to fuse: from the paths of a user to pairs and their outputs."""

from pathlib import Path

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import IMAGE_SUFFIXES


def check_paths(ir: Path, vis: Path, out: Path) -> bool:
    """Whether these are folders; UserError unless the three fit together."""
    for flag, path in (("--ir", ir), ("--vis", vis)):
        if not path.exists():
            raise UserError(f"{flag} {path} does not exist.")
        if out.exists() and out.samefile(path):
            raise UserError(
                f"--out {out} is also the input {flag}, which would be overwritten: "
                "give another name."
            )
    folders = ir.is_dir()
    if folders != vis.is_dir():
        file, folder = (vis, ir) if folders else (ir, vis)
        raise UserError(
            f"{file} is a file but {folder} is a folder: give two files or two folders."
        )
    is_image = out.suffix.lower() in IMAGE_SUFFIXES
    if folders and (out.is_file() or (is_image and not out.exists())):
        raise UserError(
            f"--out {out} is a file but the inputs are folders: give a folder."
        )
    if not folders and out.is_dir():
        raise UserError(
            f"--out {out} is a folder but the inputs are files: give a file such as "
            f"{out / ir.stem}.png."
        )
    if not folders and not is_image:
        raise UserError(
            f"--out {out} has none of the suffixes {', '.join(IMAGE_SUFFIXES)}: end "
            "the name with one of them, which decides the format."
        )
    return folders
