"""Folders, packed pairs and records of TFDS give equal batches, whoever makes them."""

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import tensorflow_datasets as tfds
from made_archives import image, make_msrs, pair
from PIL import Image

from data_pipelines import pairs, records
from data_pipelines.loader import PairSource, train_batches, val_batches
from data_pipelines.prepare import main
from data_pipelines.splits import split_pairs
from hkdnet_jax.common.errors import UserError


def made_pairs(root):
    """Pairs of several formats, depths, colours and orientations, 20x24 and larger."""
    rng = np.random.default_rng(7)
    for number in range(3):
        image(root / "ir" / f"{number}.png", (24 + number, 20))
        image(root / "vis" / f"{number}.jpg", (24 + number, 20), "RGB")
    deep = rng.integers(0, 65536, (21, 30)).astype(np.uint16)
    Image.fromarray(deep).save(root / "ir" / "deep.png")
    image(root / "vis" / "deep.tif", (30, 21))
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn to the right
    pixels = rng.integers(0, 256, (32, 26, 3), np.uint8)
    Image.fromarray(pixels).save(root / "vis" / "turned.jpg", exif=turned)
    image(root / "ir" / "turned.bmp", (32, 26))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """name of a storage -> its pairs; and the folder of all of them."""
    folder = tmp_path_factory.mktemp("stored")
    made_pairs(folder / "camera")
    flags = ["--dataset", "pairs", "--manual_dir", str(folder / "camera")]
    flags += ["--data_dir", str(folder / "tfds"), "--pack", str(folder / "packed")]
    assert main([*flags, "--export", str(folder / "exported")]) == 0
    (config,) = os.listdir(folder / "tfds" / "pairs")
    return folder, {
        "folder": pairs.find_pairs([folder / "camera"]),
        "exported": pairs.find_pairs([folder / "exported"]),
        "packed": pairs.find_pairs([folder / "packed"]),
        "tfds": records.find_pairs(f"pairs/{config}", str(folder / "tfds")),
    }


def stem(name):
    return name.rpartition("/")[2]


def taken(batches, count):
    return list(itertools.islice(batches, count))


def check_equal(one, other):
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for key in left:
            np.testing.assert_array_equal(left[key], right[key])


OPTIONS = {
    "crop": 16,
    "batch_size": 4,
    "samples_per_epoch": 9,
    "seed": 3,
    "max_shrink": 1.4,
}


@pytest.mark.parametrize("storage", ["exported", "packed", "tfds"])
def test_batches_are_equal_whatever_the_storage(stored, storage):
    wanted, found = (stored[1][name] for name in ("folder", storage))
    assert [stem(p.name) for p in found] == [stem(p.name) for p in wanted]
    assert [p.size() for p in found] == [p.size() for p in wanted]
    assert (26, 32) in [p.size() for p in found] or (32, 26) in [
        p.size() for p in found
    ]
    batches = [
        taken(train_batches(PairSource(x, 16), **OPTIONS), 12) for x in (wanted, found)
    ]
    check_equal(*batches)
    assert len({batch["ir"].tobytes() for batch in batches[0]}) == 12
    check_equal(
        *(
            val_batches(PairSource(x, 16), crop=16, batch_size=2)
            for x in (wanted, found)
        )
    )
    sides = [split_pairs(x, "", "", 0.4) for x in (wanted, found)]
    for one, other in zip(*sides, strict=True):
        assert [stem(p.name) for p in one] == [stem(p.name) for p in other] != []


def test_batches_of_processes_are_those_of_threads(stored):
    """Order, state, and what happens when one of them is killed."""
    options = OPTIONS | {"batch_size": 2}
    mixed = [*stored[1]["packed"], *stored[1]["tfds"], *stored[1]["folder"]]
    wanted = taken(train_batches(PairSource(mixed, 16), **options), 9)
    several = train_batches(PairSource(mixed, 16), **options, threads=1, processes=2)
    assert several.get_state() == {"next_index": 0}
    check_equal(taken(several, 5), wanted[:5])
    state = json.loads(json.dumps(several.get_state()))
    assert state == {"next_index": 5}
    # A checkpoint fits, whoever makes the batches.
    alone = train_batches(PairSource(mixed, 16), **options)
    alone.set_state(state)
    check_equal(taken(alone, 4), wanted[5:])
    # Requests to end are for the run, which needs batches until it has saved.
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGTERM)
        os.kill(child.pid, signal.SIGINT)
    check_equal(taken(several, 4), wanted[5:])
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"ended \(.*-9.*config\.data\.processes"):
        taken(several, 100)
    assert time.monotonic() - start < 60
    several.close()


def test_processes_end_with_a_run_that_is_killed():
    code = """
import multiprocessing, os, signal
import grain
from data_pipelines.workers import FromProcesses
if __name__ == "__main__":
    batches = FromProcesses(grain.MapDataset.range(10**9), threads=1, processes=1)
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "killed.py").write_text(code)
        done = subprocess.run(
            [sys.executable, "killed.py"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": os.getcwd()},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == -signal.SIGKILL, done.stderr
    (child,) = map(int, done.stdout.split())
    deadline = time.monotonic() + 60
    while psutil.pid_exists(child) and psutil.Process(child).status() != "zombie":
        assert time.monotonic() < deadline, "it goes on"
        time.sleep(0.2)


# --- records ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def msrs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("msrs")
    make_msrs(folder / "hand")
    flags = ["--manual_dir", str(folder / "hand"), "--data_dir", str(folder / "tfds")]
    assert main(["--dataset", "msrs", *flags]) == 0
    return str(folder / "tfds")


def test_splits_are_chosen_and_added(msrs):
    def names(data_sets):
        return [pair.name for pair in records.find_pairs(data_sets, msrs)]

    train, test = names("msrs"), names("msrs:test")
    assert len(train) == 3 and len(test) == 1
    assert all(name.startswith("msrs/") for name in train + test)
    assert names("msrs:train") == train
    assert names("msrs:test + msrs:train") == sorted(train + test)
    assert names("msrs:train[:2]") == train[:2]


@pytest.mark.parametrize(
    ("data_sets", "sentence"),
    [
        ("msrs:val", r"no split 'val': name one of .*test.*train|train, test"),
        ("msrs:train[", r"has no split 'train\['"),
        ("msrs+msrs:train", r"msrs/\S+ twice; name each split once"),
        ("llvip", r"holds no prepared data set 'llvip': prepare it"),
        ("../msrs", r"holds no prepared data set '\.\./msrs'"),
        ("MSRS!", r"holds no prepared data set 'MSRS!'"),
        ("msrs:test[1:]", r"holds no pairs|has no split"),
    ],
)
def test_what_is_not_there_is_one_sentence(msrs, data_sets, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        records.find_pairs(data_sets, msrs)
    assert "\n" not in str(caught.value)


def test_a_record_that_is_too_small_or_damaged_is_named(tmp_path):
    root = tmp_path / "camera"
    pair(root / "ir" / "small.png", root / "vis" / "small.png")
    image(root / "ir" / "good.png", (20, 20))
    image(root / "vis" / "good.png", (20, 20))
    flags = ["--manual_dir", str(root), "--data_dir", str(tmp_path / "tfds")]
    assert main(["--dataset", "pairs", *flags]) == 0
    (config,) = os.listdir(tmp_path / "tfds" / "pairs")
    found = records.find_pairs(f"pairs/{config}", str(tmp_path / "tfds"))
    with pytest.raises(UserError, match=r"1 of 2 pairs.*ir of pairs/small in .*8x6"):
        PairSource(found, min_size=16)
    (records_file,) = (tmp_path / "tfds").rglob("*.array_record*")
    content = bytearray(records_file.read_bytes())
    content[:] = content[: len(content) // 2]
    records_file.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        records.find_pairs(f"pairs/{config}", str(tmp_path / "tfds"))


class Other(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set of something else."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"ir": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": iter([("a", {"ir": "a"})])}

    def _generate_examples(self):
        raise NotImplementedError


def test_a_data_set_of_something_else(tmp_path):
    builder = Other(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    with pytest.raises(UserError, match="holds ir, and not the images ir and vis"):
        records.find_pairs("other", str(tmp_path))
