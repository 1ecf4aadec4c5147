"""NPY arrays of every shape and dtype that is a picture."""

import io

import numpy as np
import pytest
from image_bytes import GRAY8, SHAPE, assert_pixels, samples

from hkdnet_jax.common.image_formats import NotSupported, decode, read_header


def npy(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
@pytest.mark.parametrize(
    "dtype", ["u1", "<u2", ">u2", ">u4", "i1", ">i2", "<i4", "<f2", ">f4", ">f8"]
)
def test_arrays(dtype, channels):
    image = samples(7, *([] if channels is None else [channels])).astype(dtype)
    expected = image.astype(image.dtype.newbyteorder("="))
    if channels is not None:
        expected = expected[..., :3] if channels > 2 else expected[..., 0]
    for array in (image, np.asfortranarray(image), image[::-1][::-1]):
        assert_pixels(npy(array), expected)


def test_truth_is_black_and_white():
    assert_pixels(npy(GRAY8 > 99), np.where(GRAY8 > 99, 255, 0).astype(np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
def test_pages(channels):
    images = samples(16, channels, 5)
    stack = np.moveaxis(images, -1, 0)
    for array in (np.ascontiguousarray(stack), np.asfortranarray(stack)):
        content = npy(array)
        assert read_header(io.BytesIO(content)).pages == 5
        for index in range(5):
            expected = stack[index] if channels == 3 else stack[index, ..., 0]
            assert_pixels(content, np.ascontiguousarray(expected), page=index)
    assert read_header(io.BytesIO(npy(stack[..., 0]))).pages == 5


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros(SHAPE, complex), "21x34 and dtype complex128"),
        (np.zeros(SHAPE, np.int64), "21x34 and dtype int64"),
        (np.zeros(SHAPE, "U3"), "21x34 and dtype <U3"),
        (np.zeros(9), "of 9 and"),
        (np.zeros(()), "of no dimension"),
        (np.zeros((2, 2, 9, 9, 3)), "2x2x9x9x3"),
        (np.zeros(SHAPE, [("a", "u1")]), "dtype"),
    ],
)
def test_what_is_no_picture_is_named(array, says):
    with pytest.raises(NotSupported, match=f"an NPY array of .*{says}|{says}"):
        decode(npy(array))


def test_objects_are_never_unpickled():
    content = npy(np.array([[print, 1]], dtype=object), allow_pickle=True)
    with pytest.raises(NotSupported, match="dtype object"):
        decode(content)


def test_what_is_broken_is_noticed():
    whole = npy(GRAY8)
    for length in (len(whole) - 1, 140, 64, 20, 7):
        with pytest.raises(Exception, match=r"."):
            decode(whole[:length])
    absurd = whole.replace(b"(21, 34), }    ", b"(99999, 99999)}")
    assert absurd != whole
    with pytest.raises(ValueError, match="99999x99999 pixels, of which at most"):
        decode(absurd)
