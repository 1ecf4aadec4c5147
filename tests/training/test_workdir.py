"""A run's folder: what is refused, and what is said before the first step."""

import json

import jax
import numpy as np
import pytest
from train_fixtures import student_config, teacher_config

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format
from hkdnet_jax.training import networks, workdir
from hkdnet_jax.training.networks import describe_network
from hkdnet_jax.training.run import Run


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Folders of a teacher whose units all fire, and of one with dead ones."""
    config = teacher_config()
    params = jax.device_get(networks.init_params(config))
    folder = tmp_path_factory.mktemp("teachers")
    file_format.save_model(folder / "alive", describe_network(config), params)
    layer = params["decoder"]["conv3"]
    shut = np.where(np.arange(16) < 4, np.float32(-1e3), layer["bias"])
    decoder = params["decoder"] | {"conv3": layer | {"bias": shut}}
    params = params | {"decoder": decoder}
    file_format.save_model(folder / "dead", describe_network(config), params)
    return folder


@pytest.mark.parametrize(
    ("teacher", "changes", "said"),
    [
        ("dead", {}, True),
        ("dead", {"loss.phi": 0.0}, True),  # phase 1 compares features too
        ("dead", {"loss.phi": 0.0, "train.phase1_epochs": 0}, False),
        ("alive", {}, False),
    ],
)
def test_dead_features_that_are_to_teach_are_said(
    teachers, capsys, teacher, changes, said
):
    config = student_config(teachers / teacher)
    config.update_from_flattened_dict(changes)
    workdir._warn_of_dead_features(Run(config))
    lines = [x for x in capsys.readouterr().err.splitlines() if "channels" in x]
    assert len(lines) == said
    if said:
        assert "4 of 16 channels (25%) of the teacher's decoder3" in lines[0]
        assert "configs/teacher.py:revive" in lines[0]


def test_a_workdir_whose_configuration_lacks_a_newer_key_is_continued(tmp_path):
    config = student_config("unused")
    values = json.loads(json.dumps(config.to_dict()))
    del values["model"]["attention_start"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    workdir.check_workdir(config, tmp_path)
    values["model"]["width"] = 16
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="differs in model"):
        workdir.check_workdir(config, tmp_path)
