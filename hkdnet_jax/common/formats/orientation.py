"""The orientation that EXIF or XMP metadata states: one rule for every format.

Metadata may be damaged or forged.  None of these functions raises an exception for
that: what cannot be understood states no orientation.
"""

import re
import struct

import numpy as np

TAG = 0x0112  # in EXIF data and in TIFF
_ENTRY = 12  # bytes of an entry of an IFD
_INTEGERS = {1: "B", 3: "H", 4: "I"}  # type of the tag -> its code in `struct`
_RAW_PROFILE = re.compile(rb"\s*(?:exif|APP1)\s+\d+\s+([0-9a-fA-F\s]*)", re.IGNORECASE)


def of_exif(data: bytes) -> int | None:
    """Returns the orientation, 1..8, in EXIF data, or None."""
    data = data.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 8:
        return None
    (place,) = struct.unpack_from(f"{order}I", data, 4)
    if place + 2 > len(data):
        return None
    (count,) = struct.unpack_from(f"{order}H", data, place)
    for start in range(place + 2, place + 2 + count * _ENTRY, _ENTRY):
        if start + _ENTRY > len(data):
            return None
        tag, kind = struct.unpack_from(f"{order}HH", data, start)
        if tag == TAG and kind in _INTEGERS:
            return valid(
                struct.unpack_from(order + _INTEGERS[kind], data, start + 8)[0]
            )
    return None


def of_raw_profile(text: bytes) -> int | None:
    """Returns the orientation in EXIF data as ImageMagick writes it to PNG, or None."""
    found = _RAW_PROFILE.match(text)
    if found is None:
        return None
    digits = b"".join(found[1].split())
    return of_exif(bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii")))


def of_xmp(text: bytes) -> int | None:
    """Returns the orientation in XMP metadata, or None."""
    found = re.search(rb"tiff:Orientation(?:\s*=\s*[\"']|>)\s*([0-9])\b", text)
    return valid(int(found[1])) if found else None


def valid(value: object) -> int | None:
    """Returns the value if it is an orientation, or None."""
    return value if isinstance(value, int) and 1 <= value <= 8 else None


def first(*candidates: int | None) -> int:
    """Returns the first orientation that is stated, or else 1, which is upright."""
    return next((found for found in candidates if found is not None), 1)


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turns a stored [H, W, ...] image upright, given its orientation (1..8)."""
    if orientation in (5, 6, 7, 8):
        image = np.swapaxes(image, 0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image
