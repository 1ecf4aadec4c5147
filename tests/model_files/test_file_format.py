import hashlib
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from hkdnet_jax.common import atomic_files, trees
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format

CONFIG = {"preset": "tiny", "model": {"width": 8, "alpha": 0.5, "cea": True}}


def make_params(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "encoder": {
            "conv_0": {
                "kernel": rng.normal(size=(3, 3, 1, 4)).astype(np.float32),
                "bias": rng.normal(size=4).astype(np.float32),
            }
        },
        "delta": np.float32(rng.normal()),
        "mask": np.array([True, False]),
        "table": rng.integers(-9, 9, (2, 0, 3)).astype(np.int32),
    }


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        assert x.tobytes() == y.tobytes()


def shapes(params):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)


def test_round_trip_is_exact(tmp_path):
    params = make_params()
    file_format.save_model(tmp_path / "new" / "model", CONFIG, params)
    config, loaded = file_format.load_model(tmp_path / "new" / "model")
    assert config == CONFIG
    assert_same(loaded, params)
    assert os.listdir(tmp_path / "new" / "model") == ["model.safetensors"]


def test_jax_arrays_and_other_memory_layouts_keep_their_values(tmp_path):
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    params = {
        "jax": jnp.arange(5, dtype=jnp.float32),
        "transposed": base.transpose(2, 0, 1),
        "strided": base[:, ::2, ::-1],
        "big_endian": base.astype(">f4"),
    }
    file_format.save_model(tmp_path, {}, params)
    _, loaded = file_format.load_model(tmp_path)
    for name, value in params.items():
        np.testing.assert_array_equal(loaded[name], np.asarray(value), err_msg=name)


def test_the_file_is_plain_safetensors_with_joined_names(tmp_path):
    params = make_params()
    file_format.save_model(tmp_path, CONFIG, params)
    flat = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert set(flat) == {
        "encoder/conv_0/kernel",
        "encoder/conv_0/bias",
        "delta",
        "mask",
        "table",
    }
    np.testing.assert_array_equal(
        flat["encoder/conv_0/bias"], params["encoder"]["conv_0"]["bias"]
    )


def test_a_kill_before_the_rename_leaves_the_old_model(tmp_path, monkeypatch):
    file_format.save_model(tmp_path, {"run": "old"}, make_params(0))

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        file_format.save_model(tmp_path, {"run": "new"}, make_params(1))
    config, params = file_format.load_model(tmp_path)
    assert config == {"run": "old"}
    assert_same(params, make_params(0))


def test_the_config_is_the_one_saved_with_the_parameters(tmp_path):
    # A workdir holds its run's config.json beside the model: it must not matter.
    (tmp_path / "config.json").write_text('{"run": "other"}')
    for run in ("old", "new"):
        file_format.save_model(tmp_path, {"run": run}, make_params(run == "new"))
    config, params = file_format.load_model(tmp_path)
    assert config == {"run": "new"}
    assert_same(params, make_params(1))
    assert (tmp_path / "config.json").read_text() == '{"run": "other"}'


def test_a_kill_while_writing_leaves_the_old_model(tmp_path, monkeypatch):
    file_format.save_model(tmp_path, {"run": "old"}, make_params(0))

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(KeyboardInterrupt):
        file_format.save_model(tmp_path, {"run": "new"}, make_params(1))
    config, params = file_format.load_model(tmp_path)
    assert config == {"run": "old"}
    assert_same(params, make_params(0))
    assert os.listdir(tmp_path) == ["model.safetensors"]  # no temporary file left


def test_written_files_are_readable_by_others(tmp_path):
    before = os.umask(0o022)
    try:
        atomic_files.write_atomically(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_a_place_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"file/model\.safetensors cannot be written"):
        file_format.save_model(tmp_path / "file", CONFIG, make_params())


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda d: None, "does not exist"),
        (lambda d: d.write_bytes(b""), "is a file, not a model directory"),
        (lambda d: d.mkdir(), r"not a model directory.*first validation"),
    ],
)
def test_no_model_there(tmp_path, prepare, message):
    prepare(tmp_path / "model")
    with pytest.raises(UserError, match=message) as error:
        file_format.load_model(tmp_path / "model")
    assert str(tmp_path / "model") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [0, 7, 60, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    file_format.save_model(tmp_path, CONFIG, make_params())
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged") as error:
        file_format.load_model(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["parameters", "configuration"])
def test_a_flipped_bit_is_noticed(tmp_path, part):
    file_format.save_model(tmp_path, CONFIG, make_params())
    file = tmp_path / "model.safetensors"
    content = bytearray(file.read_bytes())
    length = int.from_bytes(content[:8], "little")  # of the header, JSON
    header = content[8 : 8 + length]
    text = json.loads(header)["__metadata__"]["config"]
    digit = next(c for c in text if c.isdigit())
    at = {
        "parameters": 8 + length + 3,
        "configuration": 8 + header.index(digit.encode(), header.index(b"config")),
    }[part]
    content[at] ^= 1
    file.write_bytes(content)
    with pytest.raises(
        UserError, match=r"damaged \(its content does not match"
    ) as error:
        file_format.load_model(tmp_path)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_safetensors_file_of_another_program_is_refused(tmp_path, metadata):
    file = tmp_path / "model.safetensors"
    file.write_bytes(safetensors.numpy.save({"w": np.zeros(3)}, metadata))
    with pytest.raises(UserError, match="is not an HKDnet model"):
        file_format.load_model(tmp_path)


def test_check_params_accepts_the_right_ones():
    trees.check_params(make_params(), shapes(make_params()))


def test_check_params_lists_every_difference():
    params = make_params()
    expected = shapes(params)
    params["extra"] = {"bias": np.zeros(2, np.float32)}
    params["mask"] = params["mask"].astype(np.int8)
    del params["delta"]
    params["encoder"]["conv_0"]["bias"] = np.zeros((2, 2), np.float32)
    with pytest.raises(UserError) as error:
        trees.check_params(params, expected)
    assert (
        "missing: delta; unexpected: extra/bias; wrong: "
        "encoder/conv_0/bias is 2x2 float32 instead of 4 float32, "
        "mask is 2 int8 instead of 2 bool"
    ) in str(error.value)


def test_long_lists_are_cut():
    expected = {f"w{i:02}": np.zeros(1) for i in range(13)}
    with pytest.raises(UserError, match=r"missing: w00, .*, w09 and 3 more\)"):
        trees.check_params({}, expected)


def test_fingerprint():
    params = make_params()
    original = trees.fingerprint(params)
    assert original == trees.fingerprint(dict(reversed(params.items())))
    assert original == trees.fingerprint(jax.tree.map(jnp.asarray, params))

    changed = make_params()
    changed["delta"] = np.nextafter(changed["delta"], np.float32(9))
    renamed = make_params()
    renamed["gamma"] = renamed.pop("delta")
    reshaped = make_params()
    reshaped["mask"] = reshaped["mask"][None]
    recast = make_params()
    recast["mask"] = recast["mask"].view(np.uint8)
    others = [trees.fingerprint(p) for p in (changed, renamed, reshaped, recast)]
    assert len({original, *others}) == 5

    # The value itself is stored in runs, so it must not drift between versions.
    expected = hashlib.sha256(b"w\n2 int32\n" + b"\x01\0\0\0\x02\0\0\0").hexdigest()
    assert trees.fingerprint({"w": np.array([1, 2], np.int32)}) == expected


@pytest.mark.parametrize("bad", [{"a/b": 1}, {"": 1}, {3: 1}, {"a": {}}])
def test_trees_that_could_not_be_restored_are_refused(bad):
    with pytest.raises(ValueError, match="parameter"):
        trees.flatten(bad)


def test_config_with_nan_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        file_format.save_model(tmp_path, {"x": float("nan")}, make_params())
    assert os.listdir(tmp_path) == []


def test_imports_neither_orbax_nor_tensorflow():
    code = (
        "import sys, hkdnet_jax.model_files.file_format;"
        "print([m for m in sys.modules if m.split('.')[0] in ('orbax', 'tensorflow')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
