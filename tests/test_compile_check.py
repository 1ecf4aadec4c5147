"""The compile check, on this machine's devices and, with libtpu, on TPU's."""

import importlib.util
import json
from types import SimpleNamespace

import jax
import pytest
from train_fixtures import optimizer_of

from configs import base, teacher
from hkdnet_jax import compile_check
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.measuring import slices
from hkdnet_jax.measuring.slices import Chip, check
from hkdnet_jax.training import networks

NO_LIBTPU = importlib.util.find_spec("libtpu") is None
TINY = "--config=configs/student_x2.py:tiny"


@pytest.fixture
def cpu_as_chip(monkeypatch):
    """Lets `check` compile for this machine's devices."""
    kind = jax.devices()[0].device_kind
    monkeypatch.setitem(slices.CHIPS, kind, Chip(10**9, 1e12))
    return kind


def _trained(config, groups):
    params = jax.eval_shape(lambda: networks.init_params(config))
    return sum(leaf.size for group in groups for leaf in jax.tree.leaves(params[group]))


@pytest.mark.parametrize(
    ("phase", "groups"), [(1, ("fusion",)), (2, ("fusion", "sr", "adapter"))]
)
def test_a_step_moves_its_gradient_and_little_else(cpu_as_chip, phase, groups):
    config = base.student(2, "tiny")
    config.model.dfag = config.model.cea = False  # less to compile
    row = check(config, jax.devices(), phase)
    assert [c["kind"] for c in row["collectives"]] == ["all-reduce"]
    gradient = 4 * _trained(config, groups)
    assert gradient <= row["collectives"][0]["bytes"] <= gradient + 64
    assert row["fits"] is True and row["phase"] == phase
    assert row["temp_bytes"] > 0
    assert row["peak_bytes"] > row["argument_bytes"] > gradient
    assert row["floor_seconds"] == row["flops"] / 4e12
    json.dumps(row)


def test_what_is_too_large_does_not_fit(cpu_as_chip, monkeypatch):
    monkeypatch.setitem(slices.CHIPS, cpu_as_chip, Chip(1000, 1e12))
    row = check(teacher.get_config("tiny"), jax.devices()[:1], 1)
    assert row["fits"] is False
    assert row["collectives"] == []  # one device


def test_a_compiler_that_gives_up(cpu_as_chip, monkeypatch, tmp_path, capsys):
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for "
        "HLO temporaries (43.58G) exceeds available HBM (15.75G)."
    )

    def give_up(lowered):
        raise jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr(jax.stages.Lowered, "compile", give_up)
    monkeypatch.setattr(slices, "tpu_devices", lambda name: jax.devices())
    out = tmp_path / "figures.json"
    argv = [TINY, "--topology=v5e:2x2", "--phase=2", f"--out={out}"]
    argv += ["--config.model.dfag=False", "--config.model.cea=False"]  # less to trace
    assert compile_check.main(argv) == 1
    said, errors = capsys.readouterr()
    assert "phase 2: DOES NOT FIT (the compiler gave up: 43.58 GiB of temp" in said
    assert errors.startswith("error: Phase 2 does not fit") and errors.count("\n") == 1
    (row,) = json.loads(out.read_text())["phases"]
    assert row["fits"] is False and row["peak_bytes"] is None
    assert row["temp_bytes"] == round(43.58 * 2**30) and row["flops"] > 0

    argv[2] = "--phase=1"
    message = "RESOURCE_EXHAUSTED: no numbers"
    assert compile_check.main(argv) == 1
    assert "too many temporaries" in capsys.readouterr().out
    message = "INTERNAL: something else"
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        compile_check.main(argv)


def test_arguments_of_a_teacher_hold_the_network_of_its_loss():
    config = teacher.get_config()
    _, frozen, batch = slices.abstract_arguments(config, optimizer_of(config))
    assert frozen["conv1_1"]["kernel"].shape == (3, 3, 3, 64)
    assert batch["ir"].shape == (64, 128, 128, 1)
    config.loss.percep = 0.0
    assert slices.abstract_arguments(config, optimizer_of(config))[1] == {}


def test_the_batch_must_be_divisible(cpu_as_chip):
    config = base.student(2, "tiny")
    config.train.batch_size = 6
    with pytest.raises(UserError, match=r"batch_size is 6, not divisible by the 4"):
        check(config, jax.devices(), 1)
    config.train.batch_size, config.train.accumulate = 8, 4
    with pytest.raises(UserError, match=r"accumulate is 4: .*\(8\).* the 4 chips"):
        check(config, jax.devices(), 1)


def test_a_machine_may_have_one_chip(monkeypatch):
    def describe(platform, topology_name, **options):
        asked[topology_name] = options
        return SimpleNamespace(devices=[topology_name])

    asked = {}
    monkeypatch.setattr(slices.topologies, "get_topology_desc", describe)
    for name in ("v6e:1x1", "v6e:2x2", "v5p:1x1x1", "v5e:1x16"):
        assert slices.tpu_devices(name) == [name]
    one = {"chips_per_host_bounds": (1, 1, 1)}
    assert asked == {"v6e:1x1": one, "v6e:2x2": {}, "v5p:1x1x1": one, "v5e:1x16": {}}


def test_an_unknown_chip():
    with pytest.raises(UserError, match="memory of a cpu is not known"):
        check(base.student(2, "tiny"), jax.devices(), 1)


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([TINY], "--topology is missing"),
        ([TINY, "--topology=v5e:2x4", "--phase=3"], "--phase 3 is not a phase"),
        ([TINY, "--topology=v5e:2x4", "--out=no/such/x.json"], "--out no/such/x.json"),
        ([TINY, "--topology=v5e:2x4", "--out=x.txt"], "--out x.txt must be a FILE"),
        ([TINY, "--topology=v5e:2x4", "--config.scale=7"], "config.scale is 7"),
        (
            [
                TINY,
                "--topology=v5e:2x4",
                "--config.attention=cudnn",
                "--config.dtype=bfloat16",
            ],
            "config.attention=cudnn",
        ),
        ([TINY, "--topology=nope:2x2"], "hkdnet-jax[tpu]" if NO_LIBTPU else "nope"),
    ],
)
def test_mistakes(capsys, argv, named):
    assert compile_check.main(argv) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and named in line


@pytest.mark.skipif(NO_LIBTPU, reason="libtpu is not installed (the extra tpu)")
def test_a_tpu_slice(tmp_path, capsys):
    out = tmp_path / "figures.json"
    argv = [TINY, "--topology=v5e:2x2", f"--out={out}"]
    assert compile_check.main(argv) == 0
    figures = json.loads(out.read_text())
    assert (figures["chips"], figures["device_kind"]) == (4, "TPU v5 lite")
    for row, phase in zip(figures["phases"], (1, 2), strict=True):
        assert row["phase"] == phase and row["fits"]
        assert row["capacity_bytes"] == 16 * 2**30
        assert [c["kind"] for c in row["collectives"]] == ["all-reduce"]
    assert "phase 2" in capsys.readouterr().out
