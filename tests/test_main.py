"""The command line: every mistake is one sentence, found before anything compiles."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from train_fixtures import random_params, save_teacher, student_config

from configs import base
from hkdnet_jax import main
from hkdnet_jax.common import atomic_files
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format
from hkdnet_jax.models.teacher import Teacher
from hkdnet_jax.training import loop, networks, workdir
from hkdnet_jax.training.config_check import check_config
from hkdnet_jax.training.networks import describe_network

TINY = "--config=configs/student_x2.py:tiny"


@pytest.fixture(autouse=True)
def nothing_compiles(monkeypatch):
    """A run that gets as far as training fails the test."""

    def train(*_):
        raise AssertionError("the mistake was not found before training")

    monkeypatch.setattr(loop, "train", train)


def fails(capsys, *argv: str) -> str:
    """The one sentence that `argv` fails with."""
    assert main.main(list(argv)) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    assert "Traceback" not in lines[0]
    return lines[0]


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "--config is missing"),
        ([TINY], "--workdir is missing"),
        (["--config=configs/nope.py", "--workdir=W"], "nope.py, which is not there"),
        (["--config=configs/student_x2.py:huge", "--workdir=W"], ": variant 'huge'"),
        ([TINY, "--workdir=W", "--config.foo=1"], "foo"),
        ([TINY, "--workdir=W", "--config.model.wdith=8"], "width"),
        ([TINY, "--workdir=W", "--config.scale=two"], "two"),
        ([TINY, "--workdir=W", "--config.model.width=wide"], "wide"),
        ([TINY, "--workdir=W", "--nonsense=1"], "nonsense"),
        ([TINY, "--workdir=W", "stray"], "stray"),
    ],
)
def test_unusable_command_lines(capsys, argv, named):
    assert named in fails(capsys, *argv)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("scale=5", "config.scale is 5"),
        ("data.crop=33", "config.data.crop is 33: it must be divisible by the scale 2"),
        ("data.val_crop=50001", "config.data.val_crop"),
        ("data.crop=2", "config.data.crop is 2"),
        ("kind=pupil", "config.kind"),
        ("dtype=float64", "config.dtype"),
        ("attention=tiled", "config.attention"),
        ("attention=flash", "config.attention is 'flash': the kernel does not run on"),
        ("attention=cudnn", "needs config.dtype=bfloat16, not float32"),
        ("model.position_pool=0", "config.model.position_pool"),
        ("model.position_keys=-1", "config.model.position_keys"),
        ("optim.schedule=linear", "config.optim.schedule"),
        ("optim.lr=-1.0", "config.optim.lr"),
        ("optim.ema=1.0", "config.optim.ema"),
        ("val_metrics=FMI", "config.val_metrics: Metrics 'FMI'"),
        ("val_metrics_every_epochs=0", "config.val_metrics_every_epochs"),
        ("model.dfa_softmax=rows", "config.model.dfa_softmax"),
        ("model.width=0", "config.model.width"),
        (
            "model.corner_gamma=1.5",
            "config.model.corner_gamma is 1.5: it must be below",
        ),
        ("model.decoder=(8, 0, 8)", "config.model.decoder is (8, 0, 8)"),
        ("optim.milestones=(0.5, 1.5)", "config.optim.milestones is (0.5, 1.5)"),
        ("optim.lr=nan", "config.optim.lr is nan: it must be a finite number"),
        ("precision=half", "config.precision is 'half': it must be one of highest"),
        ("loss.vgg_layers=('relu9_9',)", "config.loss.vgg_layers"),
        ("train.phase1_epochs=99", "config.train.phase1_epochs"),
        ("train.batch_size=6", "divisible by the 4 devices"),
        ("mesh.data=64", "config.mesh.data"),
        ("mesh.data=3", "config.train.batch_size is 8: it must be divisible by the 3"),
        ("teacher.dir=", "config.teacher.dir"),
        ("teacher.dir=no/such/folder", "no/such/folder"),
    ],
)
def test_unusable_values(capsys, tmp_path, override, named):
    teacher = f"--config.teacher.dir={tmp_path}"
    argv = [TINY, f"--workdir={tmp_path / 'w'}", teacher, f"--config.{override}"]
    assert named in fails(capsys, *argv)
    assert not (tmp_path / "w").exists()


def test_teacher_folder_without_a_teacher(capsys, tmp_path):
    workdir = f"--workdir={tmp_path / 'w'}"
    empty = fails(capsys, TINY, workdir, f"--config.teacher.dir={tmp_path}")
    assert str(tmp_path) in empty and "model.safetensors" in empty


def test_teacher_folder_with_a_student(capsys, tmp_path, tiny_teacher):
    config = student_config(tiny_teacher)
    params = random_params(config, seed=0)
    params.pop("adapter")
    file_format.save_model(tmp_path / "s", describe_network(config), params)
    sentence = fails(
        capsys,
        TINY,
        f"--workdir={tmp_path / 'w'}",
        f"--config.teacher.dir={tmp_path / 's'}",
    )
    assert "student, not a teacher" in sentence


def test_workdir_of_another_model(capsys, tmp_path, tiny_teacher):
    config = student_config(tiny_teacher)
    (tmp_path / "config.json").write_text(atomic_files.to_json(config.to_dict()))
    teacher = f"--config.teacher.dir={tiny_teacher}"
    argv = ["--config=configs/student_x3.py:tiny", f"--workdir={tmp_path}", teacher]
    sentence = fails(capsys, *argv)
    assert "another model" in sentence and "scale" in sentence


@pytest.mark.parametrize(
    "text", ["", "no json", "[]", "3", "null", "{}", '{"kind": 1}']
)
def test_workdir_with_a_foreign_config_file(capsys, tmp_path, tiny_teacher, text):
    (tmp_path / "config.json").write_text(text)
    teacher = f"--config.teacher.dir={tiny_teacher}"
    sentence = fails(capsys, TINY, f"--workdir={tmp_path}", teacher)
    assert "config.json was not written by this program" in sentence
    assert (tmp_path / "config.json").read_text() == text


def test_metrics_are_computed_when_there_is_a_validation(tiny_teacher):
    config = base.student(2, "tiny")
    config.teacher.dir = str(tiny_teacher)
    config.val_every_epochs, config.val_metrics_every_epochs = 3, 10
    check_config(config)  # no metrics are asked for
    config.val_metrics = "all"
    with pytest.raises(UserError, match=r"val_metrics_every_epochs is 10.*multiple"):
        check_config(config)


def test_workdir_that_is_a_file(capsys, tmp_path, tiny_teacher):
    (tmp_path / "w").write_text("")
    teacher = f"--config.teacher.dir={tiny_teacher}"
    sentence = fails(capsys, TINY, f"--workdir={tmp_path / 'w'}", teacher)
    assert "is a file" in sentence


def test_one_workdir_takes_one_process(tmp_path):
    with workdir.sole_user(tmp_path):
        code = (
            "from pathlib import Path; from hkdnet_jax.training import workdir\n"
            f"with workdir.sole_user(Path({str(tmp_path)!r})): pass"
        )
        second = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert b"Another process is training" in second.stderr
    with workdir.sole_user(tmp_path):  # free again
        pass


def make_root(folder, count: int, size: int):
    for modality in ("ir", "vis"):
        (folder / modality).mkdir(parents=True)
        for i in range(count):
            image = np.full((size, size), 40 * i, np.uint8)
            Image.fromarray(image).save(folder / modality / f"p{i}.png")
    return folder


@pytest.mark.parametrize(
    ("count", "size", "named"), [(0, 0, "root"), (3, 24, "24x24"), (3, 24, "data.crop")]
)
def test_unusable_data_folders(capsys, tmp_path, tiny_teacher, count, size, named):
    root = make_root(tmp_path / "root", count, size)
    sentence = fails(
        capsys,
        TINY,
        f"--workdir={tmp_path / 'w'}",
        f"--config.teacher.dir={tiny_teacher}",
        f"--config.data.roots={root}",
    )
    assert named in sentence


@pytest.fixture
def looked_at(monkeypatch):
    """The runs that were looked at for dead features; none begins to train."""
    runs = []
    monkeypatch.setattr(workdir, "_warn_of_dead_features", runs.append)
    monkeypatch.setattr(loop, "begin", lambda *_: loop.Beginning(0, None))
    monkeypatch.setattr(loop, "train", lambda *_: True)
    return runs


@pytest.mark.parametrize("key", ["alpha", "damping"])
def test_a_students_run_has_its_teachers_rule_and_no_other(
    capsys, tmp_path, tiny_teacher, key
):
    argv = [TINY, f"--config.teacher.dir={tiny_teacher}"]
    other = f"--config.teacher.{key}=0.25"
    sentence = fails(capsys, *argv, f"--workdir={tmp_path / 'w'}", other)
    assert f"config.teacher.{key} is 0.25, but the teacher in" in sentence


@pytest.mark.usefixtures("looked_at")
def test_the_teachers_rule_is_recorded(tmp_path, tiny_teacher, capsys):
    argv = [TINY, f"--config.teacher.dir={tiny_teacher}", f"--workdir={tmp_path}"]
    assert main.main(argv) == 0
    recorded = json.loads((tmp_path / "config.json").read_text())
    assert recorded["teacher"] == {
        "alpha": 0.5,
        "damping": 0.0,
        "context": 0.0,
        "style": "balanced",
        "dir": str(tiny_teacher),
    }


def test_drawn_scenes_and_idle_devices_are_said(
    tmp_path, tiny_teacher, looked_at, capsys
):
    argv = [TINY, f"--config.teacher.dir={tiny_teacher}", f"--workdir={tmp_path}"]
    assert main.main([*argv, "--config.mesh.data=2"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and len(looked_at) == 1  # test_workdir.py has what that says
    assert (
        "roots is empty, so all 2 epochs of this run train on 8 procedural" in said[0]
    )
    assert "config.mesh.data=2 leaves 2 of 4 devices idle" in said[1]

    root = make_root(tmp_path / "root", count=5, size=40)
    assert main.main([*argv, f"--config.data.roots={root}"]) == 0
    assert not capsys.readouterr().err and len(looked_at) == 2


def test_an_address_of_an_unknown_kind(capsys):
    sentence = fails(capsys, TINY, "--workdir=ftp://host/runs", "--config.seed=1")
    assert "ftp://host/runs cannot hold checkpoints: choose a --workdir" in sentence


def test_vgg_file_that_is_missing(capsys, tmp_path):
    sentence = fails(
        capsys,
        "--config=configs/teacher.py:tiny",
        f"--workdir={tmp_path / 'w'}",
        "--config.loss.percep=1.0",
        f"--config.loss.vgg_path={tmp_path / 'none.npz'}",
    )
    assert "none.npz" in sentence and "config.loss.percep=0" in sentence


@pytest.mark.parametrize(("argv", "code"), [(["--help"], 0), ([TINY], 1)])
def test_a_real_command(argv, code):
    command = [sys.executable, "-m", "hkdnet_jax.main", *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == code
    if code:
        assert done.stderr == "error: --workdir is missing: see --help.\n"
        assert not done.stdout
    else:
        assert "--config" in done.stdout
        assert not done.stderr


def test_interrupt_is_one_sentence(capsys, monkeypatch, tmp_path):
    def run(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(workdir, "run", run)
    assert main.main([TINY, f"--workdir={tmp_path}"]) == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_help(capsys):
    with pytest.raises(SystemExit) as exit_:
        main.main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert "--workdir" in text and "--config.data.roots=" in text
    # Every key, with its meaning and its limits.
    assert "--config.model.corner_gamma=0.7" in text and "above 0, below 1" in text


def test_save_teacher_is_what_the_loop_loads(tmp_path):
    folder = save_teacher(tmp_path / "t", seed=0)
    network, params = networks.load_teacher(folder)
    assert network == Teacher() and set(params) == {"encoder", "decoder"}
