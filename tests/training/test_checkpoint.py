import contextlib
import logging
import shutil
import signal
import subprocess
import sys
import textwrap
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging as absl_logging
from jax.sharding import AxisType, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.training.checkpoint import Checkpoints


@flax.struct.dataclass
class State:
    step: jax.Array
    params: Any
    opt_state: Any


def make_state(step=3, sharding=None):
    params = {
        "conv": {
            "kernel": jax.random.normal(jax.random.key(step), (3, 3, 4, 8)),
            "bias": jnp.full(8, 1 / 3, jnp.float32),
        },
        "delta": jnp.float32(0.1) * step,
    }
    # EmptyState and the chain's tuples are what orbax stores in another form.
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    state = State(jnp.int32(step), params, tx.init(params))
    return jax.device_put(state, sharding or SingleDeviceSharding(jax.devices()[0]))


def abstract(state, sharding=None):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=sharding or x.sharding
        ),
        state,
    )


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.fixture
def opened():
    """Open checkpoints that are closed when the test ends."""
    made = []

    def opener(workdir):
        made.append(Checkpoints(workdir))
        return made[-1]

    yield opener
    for checkpoints in made:
        checkpoints.close()


@pytest.fixture
def replicated():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, P())


def test_round_trip_is_exact(tmp_path, opened):
    state = make_state()
    data = {"next_index": 12, "shards": [1, 2, {"a": None}], "name": "x"}
    meta = {"best": 31.25, "worst": float("-inf"), "config": {"scale": 3}}
    first = opened(tmp_path / "not" / "there")
    assert first.latest_step() is None
    first.save(3, state, data, meta)
    first.close()

    second = opened(tmp_path / "not" / "there")
    assert second.latest_step() == 3
    restored, got_data, got_meta = second.restore(abstract(state))
    assert isinstance(restored, State)
    assert_same(restored, state)
    assert (got_data, got_meta) == (data, meta)


def test_restore_waits_for_a_save_on_its_way(tmp_path, opened):
    checkpoints = opened(tmp_path)
    checkpoints.save(3, make_state(), {}, {"n": 1})
    assert checkpoints.restore(abstract(make_state()))[2] == {"n": 1}


def test_after_save_state_may_be_donated_and_the_rest_changed(tmp_path, opened):
    size = 2_000_000
    step = jax.jit(lambda s: {"w": s["w"] * -1 - 5}, donate_argnums=0)
    control = {"w": jnp.zeros(size)}
    step(control)
    assert control["w"].is_deleted()  # else donation does nothing on this backend

    state = {"w": jnp.arange(size, dtype=jnp.float32)}
    shape = abstract(state)
    data = {"position": [1]}
    meta = {"best": 1.0}
    checkpoints = opened(tmp_path)
    checkpoints.save(1, state, data, meta)
    data["position"].append(2)
    meta["best"] = 2.0
    for _ in range(3):
        state = step(state)
    jax.block_until_ready(state)
    restored, data, meta = checkpoints.restore(shape)
    np.testing.assert_array_equal(restored["w"], np.arange(size, dtype=np.float32))
    assert (data, meta) == ({"position": [1]}, {"best": 1.0})


def test_a_restored_state_can_be_donated_and_saved_again(tmp_path, opened):
    checkpoints = opened(tmp_path)
    checkpoints.save(3, make_state(3), {}, {})
    restored, _, _ = checkpoints.restore(abstract(make_state(3)))
    bump = jax.jit(lambda s: s.replace(step=s.step + 1), donate_argnums=0)
    checkpoints.save(4, bump(restored), {}, {})
    again, _, _ = checkpoints.restore(abstract(make_state(3)))
    assert again.step == 4
    assert_same(again.params, make_state(3).params)


def test_only_the_latest_two_stay(tmp_path, opened):
    checkpoints = opened(tmp_path)
    for step in (5, 10, 100):
        checkpoints.save(step, make_state(step), {}, {"at": step})
    checkpoints.wait()
    assert checkpoints.latest_step() == 100
    folders = {p.name for p in (tmp_path / "checkpoints").iterdir()}
    assert folders == {"10", "100"}
    assert_same(checkpoints.restore(abstract(make_state()))[0], make_state(100))


def test_saving_the_latest_step_again_does_nothing(tmp_path, opened):
    first = opened(tmp_path)
    first.save(3, make_state(3), {}, {"first": True})
    first.save(3, make_state(4), {}, {"first": False})
    first.close()
    checkpoints = opened(tmp_path)
    checkpoints.save(3, make_state(4), {}, {"first": False})
    state, _, meta = checkpoints.restore(abstract(make_state()))
    assert meta == {"first": True}
    assert_same(state, make_state(3))


def test_saving_an_earlier_step_is_refused(tmp_path, opened):
    checkpoints = opened(tmp_path)
    checkpoints.save(3, make_state(), {}, {})
    with pytest.raises(ValueError, match="step 2 is before the saved step 3"):
        checkpoints.save(2, make_state(), {}, {})


def test_what_json_cannot_hold_is_refused_at_once(tmp_path, opened):
    with pytest.raises(TypeError):
        opened(tmp_path).save(3, make_state(), {"a": np.zeros(2)}, {})


def test_one_device_to_four_and_back(tmp_path, opened, replicated):
    one = SingleDeviceSharding(jax.devices()[1])
    for name, saved, wanted in (("up", one, replicated), ("down", replicated, one)):
        checkpoints = opened(tmp_path / name)
        state = make_state(sharding=saved)
        checkpoints.save(3, state, {}, {})
        restored, _, _ = checkpoints.restore(abstract(state, wanted))
        assert_same(restored, state)
        assert all(x.sharding == wanted for x in jax.tree.leaves(restored))


def test_split_arrays_come_back_whole(tmp_path, opened, replicated):
    split = NamedSharding(replicated.mesh, P("data"))
    state = {"w": jax.device_put(jnp.arange(8.0), split)}
    checkpoints = opened(tmp_path)
    checkpoints.save(1, state, {}, {})
    restored, _, _ = checkpoints.restore(abstract(state, replicated))
    np.testing.assert_array_equal(restored["w"], np.arange(8))
    assert restored["w"].sharding == replicated


def test_every_difference_is_listed(tmp_path, opened):
    checkpoints = opened(tmp_path)
    state = make_state()
    checkpoints.save(3, state, {}, {})
    params = dict(state.params)
    params["gamma"] = params.pop("delta")
    params["conv"] = dict(params["conv"], bias=jnp.zeros(9))
    with pytest.raises(UserError) as error:
        checkpoints.restore(abstract(state.replace(params=params)))
    message = str(error.value)
    assert (
        "(missing: params/gamma; unexpected: params/delta; "
        "wrong: params/conv/bias is 8 float32 instead of 9 float32)"
    ) in message
    assert f"{tmp_path}/checkpoints/3 is a checkpoint of another model" in message
    assert "\n" not in message


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32])
def test_another_dtype_is_never_cast(tmp_path, opened, dtype):
    checkpoints = opened(tmp_path)
    sharding = SingleDeviceSharding(jax.devices()[0])
    checkpoints.save(1, {"w": jnp.arange(4.0)}, {}, {})
    wanted = {"w": jax.ShapeDtypeStruct((4,), dtype, sharding=sharding)}
    with pytest.raises(UserError, match="w is 4 float32 instead of 4 "):
        checkpoints.restore(wanted)


def test_another_optimizer_is_noticed(tmp_path, opened):
    checkpoints = opened(tmp_path)
    state = make_state()
    checkpoints.save(3, state, {}, {})
    other = state.replace(opt_state=optax.sgd(1e-3, 0.9).init(state.params))
    with pytest.raises(UserError, match="unexpected: opt_state/1/0/count"):
        checkpoints.restore(abstract(other))


def test_nothing_to_restore(tmp_path, opened):
    with pytest.raises(UserError, match="checkpoints holds no checkpoint"):
        opened(tmp_path).restore(abstract(make_state()))


@pytest.mark.parametrize(
    "lost", ["state/_METADATA", "state/manifest.ocdbt", "data/metadata", "meta"]
)
def test_a_step_that_lacks_files_is_never_picked(tmp_path, opened, lost, capsys):
    first = opened(tmp_path)
    for step in (1, 2):
        first.save(step, make_state(step), {}, {"at": step})
    first.close()
    path = tmp_path / "checkpoints" / "2" / lost
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()

    second = opened(tmp_path)
    assert second.latest_step() == 1
    assert second.restore(abstract(make_state()))[2] == {"at": 1}
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert f"checkpoints/2 lacks {lost}" in warning
    # The run then reaches step 2 anew.
    second.save(2, make_state(2), {}, {"at": "2 again"})
    second.close()
    assert opened(tmp_path).restore(abstract(make_state()))[2] == {"at": "2 again"}


def test_what_remains_of_a_killed_deletion_is_removed(tmp_path, opened, capsys):
    """Orbax deletes the third newest step file by file once the newest is complete."""
    first = opened(tmp_path)
    for step in (9, 10):
        first.save(step, make_state(step), {}, {"at": step})
    first.close()
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "9", folder / "8")
    shutil.rmtree(folder / "8" / "state")
    assert opened(tmp_path).latest_step() == 10
    assert {p.name for p in folder.iterdir()} == {"9", "10"}
    assert not capsys.readouterr().err


def test_an_unfinished_save_is_never_picked_and_is_removed(tmp_path, opened):
    first = opened(tmp_path)
    first.save(1, make_state(1), {}, {"at": 1})
    first.close()
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "1", folder / "2.orbax-checkpoint-tmp")
    second = opened(tmp_path)
    assert second.latest_step() == 1
    second.save(2, make_state(2), {}, {"at": 2})
    second.close()
    assert opened(tmp_path).restore(abstract(make_state()))[2] == {"at": 2}
    assert {p.name for p in folder.iterdir()} == {"1", "2"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("which", ["largest", "state/manifest.ocdbt", "meta/metadata"])
def test_a_damaged_checkpoint_is_a_user_error(tmp_path, opened, which, capsys):
    rng = np.random.default_rng(0)  # noise, so that the values get a file of their own
    state = {"w": jnp.asarray(rng.normal(size=9000).astype(np.float32))}
    checkpoints = opened(tmp_path)
    checkpoints.save(1, state, {}, {"some": "thing"})
    checkpoints.close()
    folder = tmp_path / "checkpoints" / "1"
    if which == "largest":
        files = [p for p in folder.rglob("*") if p.is_file()]
        path = max(files, key=lambda p: p.stat().st_size)
    else:
        path = folder / which
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"is whole \(damaged: 1\)") as error:
        opened(tmp_path).restore(abstract(state))
    assert "\n" not in str(error.value)
    (warning,) = capsys.readouterr().err.splitlines()
    assert "checkpoints/1 is damaged: " in warning


def test_killed_while_saving(tmp_path, opened):
    code = """
        import os, signal, sys
        import jax.numpy as jnp
        from hkdnet_jax.training.checkpoint import Checkpoints
        checkpoints = Checkpoints(sys.argv[1])
        checkpoints.save(1, {"w": jnp.full(4_000_000, 1.0)}, {"at": 1}, {})
        checkpoints.wait()
        checkpoints.save(2, {"w": jnp.full(4_000_000, 2.0)}, {"at": 2}, {})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code), tmp_path])
    assert result.returncode == -signal.SIGKILL
    checkpoints = opened(tmp_path)
    step = checkpoints.latest_step()
    assert step in (1, 2)
    sharding = SingleDeviceSharding(jax.devices()[0])
    shape = {"w": jax.ShapeDtypeStruct((4_000_000,), jnp.float32, sharding=sharding)}
    state, data, _ = checkpoints.restore(shape)
    assert data == {"at": step}
    np.testing.assert_array_equal(state["w"], np.float32(step))


def test_the_log_holds_nothing_of_orbax_below_warnings(tmp_path, opened):
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("absl")
    level = absl_logging.get_verbosity()
    logger.addHandler(handler)
    absl_logging.set_verbosity(absl_logging.INFO)
    try:
        checkpoints = opened(tmp_path)
        checkpoints.save(1, make_state(), {}, {})
        checkpoints.restore(abstract(make_state()))
        absl_logging.info("ours")
    finally:
        absl_logging.set_verbosity(level)
        logger.removeHandler(handler)
    assert [r.getMessage() for r in records] == ["ours"]


def test_a_checkpoint_of_the_old_optimizer_is_one_sentence(tmp_path):
    """Its state held the counters of skipped steps beside the optimizer's."""
    old = {"step": jnp.int32(3), "opt_state": {"sr": jnp.zeros(2)}}
    old |= {"skipped": jnp.int32(0), "bad_row": jnp.int32(0)}
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(3, old, {}, {})
        with pytest.raises(UserError) as caught:
            checkpoints.restore(abstract(make_state()))
    assert "was saved by a version before 0.2" in str(caught.value)
    assert f"--config.init_from={tmp_path}." in str(caught.value)
    assert "\n" not in str(caught.value)
