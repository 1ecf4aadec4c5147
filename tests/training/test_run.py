"""What a run opens before its first step: its data and its teacher."""

import numpy as np
import pytest
from PIL import Image
from train_fixtures import student_config, teacher_config

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.training.run import Run, open_sources


def test_scenes_of_training_and_validation_differ():
    train, val = open_sources(teacher_config())
    assert len(train) == 8
    assert len(val) == 3
    assert not set(train.names) & set(val.names)
    assert train[0]["ir"].shape[0] > 16, "room for random crops"


def test_pairs_of_folders(tmp_path):
    config = teacher_config()
    config.data.crop = config.data.val_crop = 32
    rng = np.random.default_rng(0)
    for number in range(6):
        for modality in ("ir", "vis"):
            folder = tmp_path / f"root{number % 2}" / modality
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (32, 40), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    config.data.roots = f"{tmp_path}/root0, {tmp_path}/root1"
    config.data.val_fraction = 0.4
    train, val = open_sources(config)
    assert len(train) + len(val) == 6
    assert not set(train.names) & set(val.names)

    config.data.val_fraction = 0.0
    with pytest.raises(UserError, match=r"validation.*val_fraction"):
        open_sources(config)


def test_crops_are_shrunk_where_the_configuration_says_so(tiny_teacher):
    config = student_config(tiny_teacher)
    plain = next(Run(config).batches())["ir"]
    config.data.max_shrink = 2.0
    shrunk = next(Run(config).batches())["ir"]
    assert shrunk.shape == plain.shape and not np.array_equal(shrunk, plain)


def test_a_skip_unlike_the_teacher_is_said(tiny_teacher, capsys):
    config = student_config(tiny_teacher)
    Run(config)
    assert capsys.readouterr().err == ""
    config.model.skip_damping = 1.0
    Run(config)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    keys = {"skip_alpha": 0.5, "skip_damping": 0, "skip_context": 0}
    remedy = " ".join(f"--config.model.{name}={v}" for name, v in keys.items())
    assert "(skip_damping is 1)" in said and said.endswith(f"set {remedy}.\n")
    config.model.global_skip = False
    Run(config)
    assert capsys.readouterr().err == ""


def test_the_skip_of_a_vivid_teacher_is_said(tiny_teacher, tmp_path, capsys):
    params = Model.load(tiny_teacher).params
    rule = {"kind": "teacher", "alpha": 0.3, "damping": 1.0, "context": 12.0}
    file_format.save_model(tmp_path, rule, params)
    config = student_config(tmp_path)
    Run(config)
    assert "(skip_context is 0)" in (said := capsys.readouterr().err)
    assert said.endswith("set --config.model.skip_context=6.\n")
    config.model.skip_context = 6.0
    Run(config)
    assert capsys.readouterr().err == ""


def test_made_scenes_train_beside_the_stored_pairs(tiny_teacher, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(4):
        for side in ("ir", "vis"):
            file = tmp_path / side / f"{number}.png"
            file.parent.mkdir(exist_ok=True)
            pixels = rng.integers(0, 256, (48, 50), np.uint8)
            Image.fromarray(pixels).save(file)
    config = student_config(tiny_teacher)
    config.data.roots = str(tmp_path)
    config.data.val_fraction = 0.25
    config.data.max_shrink = 1.5
    stored, _ = open_sources(config)
    config.data.added_scenes = 2
    both, val = open_sources(config)
    assert len(stored) == 3 and len(val) == 1
    assert both.names == [*stored.names, "scene_0000", "scene_0001"]
    np.testing.assert_array_equal(both[1]["ir"], stored[1]["ir"])
    assert both[4]["ir"].shape == (48 + 32, 48 + 32, 1)
    assert np.any(both[3]["ir"] != both[4]["ir"])
    with pytest.raises(IndexError):
        both[5]
    batch = next(Run(config).batches())
    assert batch["ir"].shape == (2, 32, 32, 1)
