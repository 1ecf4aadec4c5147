"""The demo end to end, with a tiny network and a handful of scenes."""

import numpy as np
import pytest
from PIL import Image

from configs import base
from data_pipelines.pairs import read_gray
from hkdnet_jax import quickstart


@pytest.fixture
def tiny_demo(monkeypatch):
    def get_config(variant=None):
        config = base.student(2, "tiny")
        config.mesh.data = 1
        config.train.batch_size = 4
        config.data.samples_per_epoch = 4
        config.data.scenes = 4
        config.data.val_scenes = 1
        if variant == "teacher":
            config.kind = "teacher"
            config.train.phase1_epochs = 0
            config.train.epochs = 1
        return config

    monkeypatch.setattr(quickstart.quickstart, "get_config", get_config)
    monkeypatch.setattr(quickstart, "SIZE", (48, 64))
    monkeypatch.setattr(quickstart, "SHOWN", 2)


def test_demo_draws_held_out_scenes(tiny_demo, tmp_path, capsys):
    assert quickstart.main(["--out", str(tmp_path)]) == 0
    sheet = tmp_path / "comparison.png"
    assert str(sheet) in capsys.readouterr().out
    drawn = np.asarray(Image.open(sheet))
    assert drawn.shape == (2 * (48 + quickstart.CAPTION), 4 * 64)

    names = ["scene_0005.png", "scene_0006.png"]  # after 4 to train, 1 to validate
    assert sorted(p.name for p in (tmp_path / "fused").iterdir()) == names
    fused = read_gray(tmp_path / "fused" / names[0])
    assert fused.shape == (48, 64)
    assert read_gray(tmp_path / "low" / "ir" / names[0]).shape == (24, 32)
    # The last picture of the first row is the fused file.
    top = quickstart.CAPTION
    np.testing.assert_array_equal(drawn[top : top + 48, 3 * 64 :], fused)
    # The first is the low-resolution infrared, each pixel four times.
    low = read_gray(tmp_path / "low" / "ir" / names[0])
    np.testing.assert_array_equal(drawn[top : top + 48, :64][::2, ::2], low)


def test_user_errors_are_one_sentence(tiny_demo, tmp_path, capsys):
    (tmp_path / "teacher").write_text("in the way")
    assert quickstart.main(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("error: ") == 1
