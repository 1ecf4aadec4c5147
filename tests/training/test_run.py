"""What a run opens before its first step: its data and its teacher."""

import numpy as np
import pytest
from PIL import Image
from train_fixtures import student_config, teacher_config

from hkdnet_jax.common.errors import UserError
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
    assert "--config.model.skip_alpha=0.5 --config.model.skip_damping=0." in said
    config.model.global_skip = False
    Run(config)
    assert capsys.readouterr().err == ""
