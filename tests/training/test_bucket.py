"""Runs whose workdir is a bucket, where nothing is renamed and no folder exists."""

import contextlib
import json

import fake_bucket
import numpy as np
import pytest
from soak.storage_faults import BEFORE, NEWEST, content, outcome
from train_fixtures import teacher_config

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.paths import as_path
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.training import workdir
from hkdnet_jax.training.checkpoint import Checkpoints

# Of futures that TensorStore leaves behind when it cannot read.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

RUN = "gs://bucket/runs/x2"
HERE = "/bucket/runs/x2"


@pytest.fixture
def bucket():
    """The objects of all buckets."""
    with fake_bucket.served() as objects:
        yield objects


def _save(*steps):
    with contextlib.closing(Checkpoints(RUN)) as checkpoints:
        for step in steps:
            checkpoints.save(step, *content(step))


def _steps(bucket):
    names = [n for n in bucket.store if n.startswith(f"{HERE}/checkpoints/")]
    return {name.split("/")[5] for name in names}


def test_checkpoints_live_in_a_bucket(bucket):
    _save(1, 2, 3)
    assert _steps(bucket) == {"2", "3"}
    with contextlib.closing(Checkpoints(RUN)) as checkpoints:
        assert checkpoints.latest_step() == 3
    bucket.store.pop(f"{HERE}/checkpoints/3/commit_success.txt")
    assert outcome(as_path(RUN)) == NEWEST, "of those that are complete, which is 2"


def test_a_save_that_is_killed_after_any_object_is_never_picked(bucket):
    _save(1)
    before = dict(bucket.store)
    bucket.store.written.clear()
    _save(2)
    written = list(bucket.store.written)
    marker = f"{HERE}/checkpoints/2/commit_success.txt"
    assert written[-1][0] == marker, "what says that a save is complete comes last"
    assert (
        sum(name.startswith(f"{HERE}/checkpoints/2/state/") for name, _ in written) > 3
    )
    for number in range(len(written) + 1):
        bucket.store.clear()
        for name, stored in [*before.items(), *written[:number]]:
            bucket.store[name] = stored
        with contextlib.closing(Checkpoints(RUN)) as checkpoints:
            complete = number == len(written)
            assert checkpoints.latest_step() == 1 + complete, number
            # The next save is not in the way of what is left.
            checkpoints.save(3, *content(3))
        kept = {int(step) for step in _steps(bucket)}
        assert kept == ({2, 3} if complete else {1, 3}), number


def test_a_damaged_checkpoint_in_a_bucket(bucket, capsys):
    _save(1, 2)
    name = f"{HERE}/checkpoints/2/data/metadata"
    bucket.pipe_file(name, bucket.cat_file(name).replace(b"24", b"25"))
    assert outcome(as_path(RUN)) == BEFORE
    assert _steps(bucket) == {"1", "2.damaged"}


def test_a_bucket_needs_google_s_client(bucket, monkeypatch):
    monkeypatch.setitem(fake_bucket.sys.modules, "google.cloud.storage", None)
    with pytest.raises(UserError, match=r"'hkdnet-jax\[gcs\]'"):
        Checkpoints(RUN)


def test_another_store_is_refused():
    with pytest.raises(UserError, match="s3://bucket/run cannot hold checkpoints"):
        Checkpoints("s3://bucket/run")


def test_a_whole_run_in_a_bucket(bucket, tmp_path):
    """It goes on from what it left there, and ends like an unbroken one on disk."""
    config = teacher_config()
    config.tensorboard = False
    for epochs in (1, 2):
        config.train.epochs = epochs
        assert workdir.run(config, RUN) is True
    workdir.run(config, str(tmp_path / "run"))
    rows = bucket.cat_file(f"{HERE}/metrics.jsonl")
    assert rows == (tmp_path / "run" / "metrics.jsonl").read_bytes()
    in_bucket, on_disk = (Model.load(x) for x in (as_path(RUN), tmp_path / "run"))
    np.testing.assert_array_equal(
        in_bucket.params["decoder"]["conv4"]["kernel"],
        on_disk.params["decoder"]["conv4"]["kernel"],
    )
    sums = [
        json.loads(text)["sha256"]
        for text in (
            bucket.cat_file(f"{HERE}/checkpoints/8/meta/metadata"),
            (tmp_path / "run" / "checkpoints/8/meta/metadata").read_text(),
        )
    ]
    assert sums[0] == sums[1]
