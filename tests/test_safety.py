"""Nothing that is loaded can run code: no pickle, and traps that stay shut."""

import ast
import pickle

import numpy as np
import pytest
from test_layout import FILES, trees

from data_pipelines import packed
from hkdnet_jax.common import image_files
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.losses import vgg
from hkdnet_jax.model_files import file_format
from hkdnet_jax.released import reading

# Modules that run what they read, or what is given to them as text.
UNSAFE = {
    *("pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle"),
    *("joblib", "yaml", "jsonpickle", "pickletools"),
}
# The one exception: a name of `pickle` that can only be caught.
CAUGHT = {"hkdnet_jax.released.reading": {"UnpicklingError"}}


def calls(tree, *names):
    """Calls of a function by its last name, with what is before it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            *before, last = ast.unparse(node.func).split(".")
            if last in names:
                yield ".".join(before), last, node


def argument(call, name):
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), None)


def test_no_module_imports_what_unpickles():
    for name, tree in trees().items():
        for node in ast.walk(tree):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            unsafe = {module.partition(".")[0] for module in modules} & UNSAFE
            assert not unsafe or (name in CAUGHT and unsafe == {"pickle"}), name
        used = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle"
        }
        assert used == CAUGHT.get(name, set()), name


def test_no_call_allows_a_pickle():
    seen = set()
    for name, tree in trees().items():
        for before, last, call in calls(tree, "load", "NpzFile", "read_array", "save"):
            if before in ("np", "np.lib.npyio", "np.lib.format"):
                seen.add((before, last))
                assert argument(call, "allow_pickle") in (None, "False"), name
            if before == "torch":
                seen.add((before, last))
                assert last == "load" and argument(call, "weights_only") == "True"
            assert before not in ("yaml", "joblib", "keras.models"), name
        for before, last, _ in calls(tree, "eval", "exec", "compile", "__import__"):
            assert before or last == "compile", f"{name} calls {last}"
    assert {("np", "load"), ("np.lib.npyio", "NpzFile"), ("torch", "load")} <= seen


def test_the_walk_sees_what_it_must():
    tree = ast.parse("np.load(x, allow_pickle=True); torch.load(y)")
    found = [
        (before, argument(c, "allow_pickle")) for before, _, c in calls(tree, "load")
    ]
    assert found == [("np", "True"), ("torch", None)]
    assert "hkdnet_jax.released.reading" in FILES


class Trap:
    """What an attacker would put into a file: unpickling it calls a function."""

    sprung = False

    def __reduce__(self):
        return spring, ()


def spring():
    Trap.sprung = True


def object_array(folder, name):
    array = np.empty(1, object)
    array[0] = Trap()
    file = folder / name
    with file.open("wb") as out:
        if file.suffix == ".npz":
            np.savez(out, a=array)
        else:
            np.save(out, array, allow_pickle=True)
    return file


def plain_pickle(folder, name):
    file = folder / name
    file.write_bytes(pickle.dumps({"a": Trap()}))
    return file


def packed_pixels(folder):
    packed.write(folder, [("a", (1, 1))], [(np.zeros((1, 1), np.uint8),) * 2])
    object_array(folder, "pixels.npy")
    packed.find_pairs(folder, "a")


READERS = {
    "a picture": lambda f: image_files.read(object_array(f, "a.npy")),
    "a picture that is a pickle": lambda f: image_files.read(plain_pickle(f, "a.png")),
    "a packed data set": packed_pixels,
    "a model": lambda f: file_format.load_model(object_array(f, "a.npz")),
    "a model that is a pickle": lambda f: file_format.load_model(
        plain_pickle(f, "a.npz")
    ),
    "a safetensors that is a pickle": lambda f: file_format.load_model(
        plain_pickle(f, "model.safetensors").parent
    ),
    "VGG16": lambda f: vgg.load(str(object_array(f, "a.npz"))),
    "VGG16 that is a pickle": lambda f: vgg.load(str(plain_pickle(f, "a.h5"))),
    "a released .npz": lambda f: reading.read_checkpoint(object_array(f, "a.npz")),
    "a released .mat": lambda f: reading.read_checkpoint(plain_pickle(f, "a.mat")),
    "a released checkpoint": lambda f: reading.read_checkpoint(plain_pickle(f, "a.pt")),
}


@pytest.mark.parametrize("what", READERS)
def test_a_trap_is_refused_and_stays_shut(tmp_path, what):
    with pytest.raises(UserError) as caught:
        READERS[what](tmp_path)
    assert not Trap.sprung and "\n" not in str(caught.value)


def test_the_trap_would_spring(tmp_path, monkeypatch):
    monkeypatch.setattr(Trap, "sprung", False)
    np.load(object_array(tmp_path, "a.npy"), allow_pickle=True)
    assert Trap.sprung
