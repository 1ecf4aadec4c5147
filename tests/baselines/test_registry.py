"""Names of methods, their weights, and what is said if these are missing."""

import jax
import numpy as np
import pytest
from baseline_fixtures import densefuse_state, edsr_state
from PIL import Image
from scipy.io import savemat

from hkdnet_jax import convert, pretrained
from hkdnet_jax.baselines import conversion, registry
from hkdnet_jax.baselines.weights import Weights
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.inference.pair import fuse_pair
from hkdnet_jax.model_files import file_format

NO_WEIGHTS = Weights()


def pair(height=12, width=14):
    rng = np.random.default_rng(0)
    return rng.uniform(0, 1, (2, height, width)).astype(np.float32)


def test_every_row_of_table_1_is_a_method():
    assert set(registry.TABLE1) <= set(registry.ALL)
    assert registry.select("table1") == registry.TABLE1
    assert registry.select("all") == registry.ALL
    assert registry.select("lite, teacher+imdn") == ("lite", "teacher+imdn")
    assert {name.partition("+")[0] for name in registry.ALL} == {
        *registry.FUSIONS,
        *registry.JOINT,
    }


@pytest.mark.parametrize(
    "spec", ["", "lite,lite", "lite+bicubic", "densefuse", "tables"]
)
def test_other_names_are_refused(spec):
    with pytest.raises(
        UserError, match="is not a method or is given twice; give table1"
    ):
        registry.select(spec)


def test_average_and_bicubic_are_those_of_pillow():
    ir, vis = pair()
    got = registry.find("average+bicubic", NO_WEIGHTS)(ir, vis, 3)
    mean = (2 * ir.astype(np.float64) + vis) / 3
    want = Image.fromarray(mean.astype(np.float32)).resize((42, 36), Image.BICUBIC)
    np.testing.assert_allclose(got, np.asarray(want), atol=1e-5)


def test_ours_are_the_models_of_the_package():
    ir, vis = pair()
    for name, scale in (("lite", 2), ("lite", 1), ("teacher+bicubic", 1)):
        got = registry.find(name, NO_WEIGHTS)(ir, vis, scale)
        ranges = {"ir_range": (0, 1), "vis_range": (0, 1)}
        model = pretrained.load(scale)
        want = fuse_pair(model, ir, vis, depth="float", **ranges)
        np.testing.assert_allclose(got.clip(0, 1), want, atol=1e-6)
    with pytest.raises(UserError, match="lite cannot enlarge 5 times"):
        registry.find("lite", NO_WEIGHTS)(ir, vis, 5)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(UserError) as error:
        registry.find("densefuse+bicubic", NO_WEIGHTS)
    assert str(error.value) == (
        "densefuse has no weights here: give --weights DIR, a folder that holds "
        "densefuse; write it with: convert --kind densefuse --checkpoint FILE --out "
        "DIR/densefuse."
    )
    with pytest.raises(
        UserError, match=f"{tmp_path}/cnn does not exist: write it with"
    ):
        registry.find("cnn+bicubic", Weights(tmp_path))


def test_weights_of_another_system_are_refused(tmp_path):
    config, params = conversion.convert("edsr", edsr_state(2))
    file_format.save_model(tmp_path / "densefuse", config, params)
    with pytest.raises(UserError, match="does not hold a network of densefuse"):
        registry.find("densefuse+bicubic", Weights(tmp_path))
    file_format.save_model(tmp_path / "edsr_x2", config | {"width": 9}, params)
    method = registry.find("average+edsr", Weights(tmp_path))
    with pytest.raises(UserError, match="edsr_x2: The weights do not fit the model"):
        method(*pair(), 2)
    file_format.save_model(tmp_path / "edsr_x2", config | {"depth": 9}, params)
    with pytest.raises(UserError, match="does not hold a network of edsr"):
        method(*pair(), 2)


# --- the command --------------------------------------------------------------------


def run(capfd, *args):
    code = convert.main([str(arg) for arg in args])
    out, err = capfd.readouterr()
    return code, out, err.splitlines()


def test_convert_reads_npz_and_matlab_files(tmp_path, capfd):
    state = densefuse_state()
    np.savez(tmp_path / "w.npz", **state)
    args = ("--kind", "densefuse", "--checkpoint", tmp_path / "w.npz")
    code, out, errors = run(capfd, *args, "--out", tmp_path / "densefuse")
    assert code == 0 and not errors and "compare --weights" in out
    savemat(tmp_path / "cnn.mat", {"weights_b1_1": np.zeros((9, 64), np.float32)})
    args = ("--kind", "cnn", "--checkpoint", tmp_path / "cnn.mat")
    code, out, errors = run(capfd, *args, "--out", tmp_path / "cnn")
    assert code == 1 and len(errors) == 1 and "missing: biases_b1_1" in errors[0]
    assert "not those of cnn" in errors[0] and not (tmp_path / "cnn").exists()
    config, params = file_format.load_model(tmp_path / "densefuse")
    want = conversion.convert("densefuse", state)
    assert config == want[0]
    jax.tree.map(np.testing.assert_array_equal, params, want[1])


def test_convert_says_what_it_needs(tmp_path, capfd):
    args = ("--checkpoint", tmp_path / "x.npz", "--out", tmp_path / "out")
    code, _, errors = run(capfd, *args)
    assert code == 1 and "--kind released needs --scale 2, 3 or 4" in errors[0]
    code, _, errors = run(capfd, *args, "--kind", "imdn")
    assert code == 1 and "is not a file: give the weights of imdn" in errors[0]


def test_convert_reads_one_state_dict_of_pytorch(tmp_path, capfd):
    torch = pytest.importorskip("torch", reason="the extra torch")
    state = {k: torch.from_numpy(x) for k, x in edsr_state(2).items()}
    torch.save(state, tmp_path / "edsr.pt")
    args = ("--kind", "edsr", "--checkpoint", tmp_path / "edsr.pt")
    assert run(capfd, *args, "--out", tmp_path / "edsr_x2")[0] == 0
    _, params = file_format.load_model(tmp_path / "edsr_x2")
    want = conversion.convert("edsr", edsr_state(2))[1]
    jax.tree.map(np.testing.assert_array_equal, params, want)
