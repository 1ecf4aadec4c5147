"""Paths of this machine, and addresses of an object store (kept in a local folder)."""

import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from etils.epath import backend, gpath
from train_fixtures import read_rows, save_teacher, teacher_config

from data_pipelines import pairs, scenes, splits
from hkdnet_jax.common.atomic_files import write_atomically
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import image_size
from hkdnet_jax.common.pair_files import read_pair
from hkdnet_jax.common.paths import as_path, is_local, short_names
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.training.networks import load_teacher
from hkdnet_jax.training.workdir import check_workdir, sole_user
from hkdnet_jax.training.writers import Writer, write_run_info


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder below which the objects of gs://bucket are files.

    What travels is real; only the store behind `etils.epath` is the file system, which
    unlike a store has folders.
    """

    class Store:
        def __getattr__(self, name):
            def moved(*args, **kwargs):
                return getattr(backend.os_backend, name)(*map(place, args), **kwargs)

            return moved

        def open(self, path, mode="r"):
            if "w" in mode:
                Path(place(path)).parent.mkdir(parents=True, exist_ok=True)
            assert "a" not in mode, "objects cannot be appended to"
            return open(place(path), mode)

    def place(argument):
        text = str(argument)
        return f"{tmp_path}/{text[5:]}" if text.startswith("gs://") else argument

    monkeypatch.setattr(gpath._GPath, "_backend", property(lambda self: Store()))
    monkeypatch.setitem(sys.modules, "gcsfs", types.ModuleType("gcsfs"))
    return tmp_path / "bucket"


def test_a_plain_path_is_pathlib_s():
    assert as_path("runs/x2") == Path("runs/x2")
    path = Path("/somewhere")
    assert as_path(path) is path and is_local(path)


def test_an_address_stays_an_address(bucket):
    path = as_path("gs://bucket/runs/x2")
    assert str(path / "config.json") == "gs://bucket/runs/x2/config.json"
    assert not is_local(path)
    assert as_path(path) is path
    with pytest.raises(UserError, match="ftp://host is not an address"):
        as_path("ftp://host")


@pytest.mark.parametrize(
    ("address", "install"),
    [("gs://b/x", "pip install 'hkdnet-jax[gcs]'"), ("s3://b/x", "pip install s3fs")],
)
def test_a_package_that_reads_an_address_is_named(monkeypatch, address, install):
    for package in ("gcsfs", "s3fs"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError) as caught:
        as_path(address)
    said = str(caught.value)
    assert said.startswith(address) and said.endswith(f"run {install}.")
    assert "\n" not in said


def test_an_address_is_not_left_to_tensorflow():
    """In a process of its own, because epath decides it at its first path."""
    code = """
import sys, types
from hkdnet_jax.common.paths import as_path
from etils import epath
epath.Path("/").exists()
sys.modules["gcsfs"] = types.ModuleType("gcsfs")
print(type(as_path("gs://bucket/run")._backend).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "_FileSystemSpecBackend\n"


def test_atomic_files(bucket):
    write_atomically("gs://bucket/a/b.txt", b"one")
    write_atomically("gs://bucket/a/b.txt", b"two")
    assert (bucket / "a" / "b.txt").read_bytes() == b"two"
    assert [path.name for path in (bucket / "a").iterdir()] == ["b.txt"]


def test_a_teacher_is_found_where_a_run_left_it(bucket, tmp_path):
    save_teacher(bucket / "teacher", seed=3)
    network, params = load_teacher("gs://bucket/teacher")
    expected = Model.load(bucket / "teacher")
    assert network == expected.network
    np.testing.assert_array_equal(
        params["decoder"]["conv4"]["kernel"],
        expected.params["decoder"]["conv4"]["kernel"],
    )
    with pytest.raises(UserError, match="gs://bucket/none does not exist"):
        load_teacher("gs://bucket/none")


def test_what_a_run_writes(bucket):
    workdir = as_path("gs://bucket/run")
    config = teacher_config()
    with sole_user(workdir):
        write_run_info(workdir, config.to_dict(), ["cpu"])
        check_workdir(config, workdir)
        other = teacher_config()
        other.teacher.alpha = 0.25
        with pytest.raises(UserError, match="another model"):
            check_workdir(other, workdir)
        for start, values in ((0, (1.0, 2.0)), (1, (3.0,))):
            writer = Writer(workdir, start_step=start, tensorboard=False)
            for step, value in enumerate(values, start=start + 1):
                writer.scalars(step, {"loss": value})
                assert read_rows(bucket / "run")[-1] == {"step": step, "loss": value}
            writer.images(step, {"a/b": np.zeros((4, 5), np.uint8)})
            writer.close()
    assert read_rows(bucket / "run") == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 3.0},
    ]
    assert (bucket / "run/samples/step_00000002/a_b.png").exists()
    recorded = json.loads((bucket / "run" / "config.json").read_text())
    assert recorded["kind"] == "teacher"


def test_data_folders_and_splits(bucket):
    for root in ("day", "night"):
        scenes.write_pairs(bucket / root, 0, 0, 2, 16, 16)
    found = pairs.find_pairs(["gs://bucket/day", "gs://bucket/night"])
    assert [pair.name for pair in found] == [
        f"{root}/scene_000{i}" for root in ("day", "night") for i in (0, 1)
    ]
    assert str(found[0].ir) == "gs://bucket/day/ir/scene_0000.png"
    write_atomically("gs://bucket/val.txt", b"night/scene_0001\n")
    train, val = splits.split_pairs(found, "", "gs://bucket/val.txt", 0.0)
    assert [pair.name for pair in val] == ["night/scene_0001"] and len(train) == 3
    ir, vis = read_pair(found[0])
    expected = scenes.render(0, 0, 16, 16)
    np.testing.assert_array_equal(ir, expected[0])
    np.testing.assert_array_equal(vis, expected[1])
    assert image_size(found[0].vis) == (16, 16)
    with pytest.raises(UserError, match="given twice"):
        pairs.find_pairs(["gs://bucket/day", "gs://bucket/day"])


@pytest.mark.parametrize(
    ("folders", "names"),
    [(["runs/a", "old/b"], ["a", "b"]), (["runs/a", "old/a"], ["runs/a", "old/a"])],
)
def test_names_are_as_short_as_tells_them_apart(folders, names):
    assert short_names([Path(folder) for folder in folders]) == names
