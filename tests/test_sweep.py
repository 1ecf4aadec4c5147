"""The command that runs the paper's ablations."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from configs import base, student_x2, teacher
from hkdnet_jax import metrics, sweep
from hkdnet_jax.evaluation import ablation
from hkdnet_jax.evaluation.pictures import degrade_picture
from hkdnet_jax.inference.pair import fuse_pair
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.student import Student
from hkdnet_jax.training import networks, sweeps
from hkdnet_jax.training.config import model_of

SMALL = [
    "--preset=tiny",
    "--steps=4",
    "--config.mesh.data=1",
    "--config.data.scenes=2",
    "--config.data.val_scenes=1",
]


@pytest.fixture(scope="module")
def test_set(tmp_path_factory):
    """A folder with one pair of random pictures."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for name in ("ir", "vis"):
        (folder / name).mkdir()
        levels = rng.integers(0, 256, (12, 13), np.uint8)
        picture = Image.fromarray(levels).resize((104, 96), Image.Resampling.BICUBIC)
        picture.save(folder / name / "a.png")
    return folder


@pytest.fixture(scope="module")
def table3(tmp_path_factory):
    """The folder of a complete sweep of two runs, and the flags that made it."""
    folder = tmp_path_factory.mktemp("sweep") / "table3"
    flags = [f"--workdir={folder}", *SMALL]
    # Two of the four values: each run takes seconds to compile.
    two = dataclasses.replace(
        sweeps._SWEEPS["table3"], variants=sweeps._SWEEPS["table3"].variants[1:3]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sweeps._SWEEPS, "table3", two)
        assert sweep.main(["table3", *flags]) == 0
        yield folder, flags


def test_a_sweep_trains_scores_and_tabulates_each_run(table3):
    folder, _ = table3
    results = json.loads((folder / "table.json").read_text())
    assert [r["variant"] for r in results] == ["mu = 10", "mu = 100"]
    for number, result in enumerate(results):
        run = folder / f"x1_{number}_seed0"
        assert json.loads((run / "result.json").read_text()) == result
        mu = json.loads((run / "config.json").read_text())["loss"]["mu"]
        assert result["variant"] == f"mu = {mu:g}" and result["steps"] == 4
        assert result["parameters"] > 5000
        assert {"psnr", "ssim", "FMI_dct", "CC"} <= result["val"].keys()
        assert result["test"] == {}
    text = (folder / "table.md").read_text()
    assert text.startswith("# Table III") and text.count("| mu = ") == 2
    assert "## Validation pairs" in text and "## Test pairs" not in text


def test_a_model_is_scored_on_test_pairs(test_set, models):
    pairs = ablation.test_pairs(test_set)
    teacher_model = Model.load(models[1])
    values = ablation.score_model(models[2], teacher_model, pairs)
    ir, vis = (
        np.asarray(Image.open(test_set / side / "a.png")) for side in ("ir", "vis")
    )
    low = (np.asarray(degrade_picture(x, 2)) for x in (ir, vis))
    fused = fuse_pair(Model.load(models[2]), *low)
    label = fuse_pair(teacher_model, ir, vis)
    want = peak_signal_noise_ratio(label, fused)
    np.testing.assert_allclose(values["psnr"], want, rtol=1e-5)
    scored = metrics.score(ir, vis, fused, ("CC", "FMI_w"))
    for name, value in scored.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-6)
    assert "psnr" not in ablation.score_model(models[1], None, pairs)


def test_the_same_command_continues_and_more_seeds_extend(table3, capsys):
    folder, flags = table3
    shutil.rmtree(folder / "x1_1_seed0")
    before = (folder / "x1_0_seed0" / "checkpoints").stat().st_mtime_ns
    assert sweep.main(["table3", *flags]) == 0
    assert (folder / "x1_1_seed0" / "result.json").exists()
    assert (folder / "x1_0_seed0" / "checkpoints").stat().st_mtime_ns == before
    assert "Table III" in capsys.readouterr().out


def test_another_sweep_in_the_folder_is_refused(table3, capsys):
    _, flags = table3
    assert sweep.main(["table4", *flags]) == 1  # of students
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and "name=table3" in error
    assert sweep.main(["table3", *flags, "--steps=8"]) == 1
    assert "steps=4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["table9"], "table9 is not one of table2, table3"),
        (["table5", "--steps=0"], "--steps 0 must be at least 1"),
        (["table5", "--test=nowhere"], "nowhere"),
        (["table5", "--config.loss.pi=3"], "no key 'pi': did you mean 'phi'?"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, says, tmp_path, capsys):
    folder = tmp_path / "sweep"
    assert sweep.main([*arguments, f"--workdir={folder}", "--preset=tiny"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and says in line
    assert not folder.exists()


# The lists of runs


def _configs(name):
    configs = {}
    for scale in sweeps.scales_of(name):
        if sweeps.kind_of(name) == "teacher":
            config = teacher.get_config("tiny")
        else:
            config = base.student(scale, "tiny")
        configs[scale] = config.lock()
    return configs


@pytest.mark.parametrize("name", sweeps.NAMES)
def test_every_variant_is_a_sound_configuration(name):
    entries = list(sweeps.entries(name, _configs(name), steps=400, seeds=2))
    assert len({entry.folder for entry in entries}) == len(entries)
    assert {entry.seed for entry in entries} == {0, 1}
    half = len(entries) // 2
    assert [e.variant for e in entries[:half]] == [e.variant for e in entries[half:]]
    for entry in entries:
        steps = sum(c.train.epochs * 100 for c in entry.stages)
        assert steps == 400
        for config in entry.stages:
            model_of(config)
            assert config.train.phase1_epochs <= config.train.epochs
    # Each variant is another run.
    runs = [str(e.stages) for e in entries[:half]]
    assert len(set(runs)) == half


def test_the_baseline_of_table_2_has_the_parameters_of_the_full_module():
    entries = list(sweeps.entries("table2", _configs("table2"), steps=100, seeds=1))
    counts = {}
    for entry in entries:
        config = entry.stages[-1]
        shapes = jax.eval_shape(lambda c=config: networks.init_params(c))
        counts[entry.variant] = sum(
            leaf.size
            for part in ("fusion", "sr")
            for leaf in jax.tree.leaves(shapes[part])
        )
    assert abs(counts["baseline"] / counts["+ DFAG"] - 1) < 0.06
    assert abs(counts["+ CEA"] / counts["+ DFAG + CEA"] - 1) < 0.06


def test_a_stand_in_is_used_only_without_a_dfag():
    config = student_x2.get_config("tiny")
    config.model.stand_in_rcabs = 2
    image = np.zeros((1, 8, 8, 1), np.float32)

    def names(**fields):
        config.model.update(fields)
        network = Student(model_of(config), 2)
        params = jax.eval_shape(network.init, jax.random.key(0), image, image)["params"]
        return set(params["fusion"]["ir"])

    assert "stand_in" not in names(dfag=True)
    assert names(dfag=False) == {"conv", "rg", "stand_in"}


# The table


def test_a_table_shows_means_and_deviations():
    def result(variant, seed, psnr):
        values = {"psnr": psnr, "ssim": 0.9, "MS_SSIM": None, "alive": 1.0}
        return {
            "variant": variant,
            "scale": 2,
            "seed": seed,
            "parameters": 1234,
            "steps": 10,
            "val": values,
            "test": {},
        }

    text = ablation.table(
        "T", [result("a", 0, 30.0), result("b", 0, 31.0), result("a", 1, 32.0)]
    )
    assert text == (
        "# T\n\n## Validation pairs\n\n"
        "| run | scale | parameters | seeds | PSNR, dB | SSIM | MS_SSIM "
        "| live channels |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| a | x2 | 1,234 | 2 | 31.00 ± 1.41 | 0.9000 ± 0.0000 | - | 1.00 ± 0.00 |\n"
        "| b | x2 | 1,234 | 1 | 31.00 | 0.9000 | - | 1.00 |\n"
    )
