"""The demo end to end, with the models of the package and a few small scenes."""

import numpy as np
import pytest
from PIL import Image

from hkdnet_jax import quickstart
from hkdnet_jax.common.image_files import read_gray
from hkdnet_jax.evaluation import sheet


@pytest.fixture
def small_demo(monkeypatch):
    monkeypatch.setattr(sheet, "SIZE", (48, 64))
    monkeypatch.setattr(sheet, "SHOWN", 2)


def test_demo_draws_scenes(small_demo, tmp_path, capsys):
    assert quickstart.main(["--out", str(tmp_path)]) == 0
    file = tmp_path / "comparison.png"
    assert str(file) in capsys.readouterr().out
    drawn = np.asarray(Image.open(file))
    assert drawn.shape == (2 * (48 + sheet.CAPTION), 4 * 64)

    names = ["scene_0000.png", "scene_0001.png"]
    assert sorted(p.name for p in (tmp_path / "fused").iterdir()) == names
    fused = read_gray(tmp_path / "fused" / names[0])
    assert fused.shape == (48, 64)
    assert read_gray(tmp_path / "low" / "ir" / names[0]).shape == (24, 32)
    # The last picture of the first row is the fused file.
    top = sheet.CAPTION
    np.testing.assert_array_equal(drawn[top : top + 48, 3 * 64 :], fused)
    # The first is the low-resolution infrared, each pixel four times.
    low = read_gray(tmp_path / "low" / "ir" / names[0])
    np.testing.assert_array_equal(drawn[top : top + 48, :64][::2, ::2], low)


def test_user_errors_are_one_sentence(small_demo, tmp_path, capsys):
    (tmp_path / "low").write_text("in the way")
    assert quickstart.main(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("error: ") == 1
