"""False colours: noticed, and undone, with palettes of the package and of files."""

import cv2
import numpy as np
import pytest
from PIL import Image

from hkdnet_jax.common import levels, palettes
from hkdnet_jax.common.errors import UserError

YY, XX = np.mgrid[:96, :128]
HEAT = 0.45 + 0.25 * np.sin(XX / 17) * np.cos(YY / 13)
HEAT += 0.3 * np.exp(-((XX - 90) ** 2 + (YY - 30) ** 2) / 150)
HEAT = np.round(255 * HEAT.clip(0, 1)).astype(np.uint8)


def coloured(palette: str) -> np.ndarray:
    return np.round(palettes.load(palette)[HEAT]).astype(np.uint8)


def by_camera(rgb: np.ndarray) -> np.ndarray:
    """As a camera stores it: JPEG, whose chroma has half the resolution."""
    stored = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
    return cv2.imdecode(stored, cv2.IMREAD_COLOR)[..., ::-1]


@pytest.mark.parametrize("palette", palettes.NAMES)
def test_false_colours_are_undone(palette):
    rgb = coloured(palette)
    assert np.abs(palettes.invert(rgb, palette).astype(int) - HEAT).max() <= 1
    deep = rgb.astype(np.uint16) * 257
    assert np.abs(palettes.invert(deep, palette).astype(int) - HEAT).max() <= 1
    lossy = palettes.invert(by_camera(rgb), palette).astype(int)
    assert np.abs(lossy - HEAT).mean() < 3
    assert np.corrcoef(lossy.ravel(), HEAT.ravel())[0, 1] > 0.99


def test_the_luma_of_a_rainbow_is_no_temperature():
    luma = levels.luma(coloured("rainbow"))
    assert np.corrcoef(luma.ravel(), HEAT.ravel())[0, 1] < 0.9


@pytest.mark.parametrize("palette", palettes.NAMES)
def test_false_colours_are_noticed(palette):
    assert palettes.is_false_colour(coloured(palette))
    assert palettes.is_false_colour(by_camera(coloured(palette)))


def test_other_pictures_are_not_noticed():
    gray = np.repeat(HEAT[..., None], 3, axis=2)
    rng = np.random.default_rng(0)
    tinted = (gray * [0.2, 1.0, 0.3]).astype(np.uint8)  # a phosphor screen
    natural = gray // 2 + rng.integers(0, 60, 3, dtype=np.uint8)
    noise = rng.integers(0, 256, gray.shape, dtype=np.uint8)
    for picture in (gray, tinted, natural, noise, gray.astype(np.uint16)):
        assert not palettes.is_false_colour(picture)


def test_a_palette_of_a_file(tmp_path):
    # A palette of one's own: from blue over green to red, unevenly.
    ramp = np.linspace(0, 1, 256)
    own = np.stack([ramp**2, np.sin(np.pi * ramp), 1 - ramp], axis=1) * 255
    rgb = np.round(own[HEAT]).astype(np.uint8)
    np.savetxt(tmp_path / "own.csv", own, delimiter=",", fmt="%.2f")
    bar = np.round(own).astype(np.uint8)
    Image.fromarray(np.repeat(bar[None], 9, axis=0)).save(tmp_path / "wide.png")
    tall = np.repeat(bar[::-1, None], 9, axis=1)
    Image.fromarray(tall).save(tmp_path / "tall.png")
    for name in ("own.csv", "wide.png", "tall.png"):
        again = palettes.invert(rgb, str(tmp_path / name)).astype(int)
        assert np.abs(again - HEAT).max() <= 1


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.csv", None, "cannot be read as a palette .*: give ironbow, rainbow"),
        ("words.csv", b"red,green,blue\n", "cannot be read as a palette"),
        ("one.csv", b"1,2,3\n", "is no palette: give at least two lines"),
        ("four.csv", b"1,2,3,4\n5,6,7,8\n", "is no palette"),
        ("large.csv", b"1,2,3\n5,6,256\n", "is no palette"),
        ("broken.png", b"no PNG", "cannot be read as an image"),
    ],
)
def test_files_that_are_no_palette(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}.*{says}"):
        palettes.load(str(tmp_path / name))


def test_pictures_without_a_palette(tmp_path):
    Image.fromarray(HEAT).save(tmp_path / "gray.png")
    with pytest.raises(UserError, match=r"gray\.png is no colour picture of 8 bits"):
        palettes.load(str(tmp_path / "gray.png"))
    with pytest.raises(UserError, match=r"float32 levels has no palette: drop --ir-"):
        palettes.invert(np.zeros((9, 9, 3), np.float32), "ironbow")
