"""The commands of README.md run, word for word.

They run in one folder, in the order of the page, on small made pairs. Two things of the
folder are shorter than a user's: the pairs, and the files of configs/, which ask the
repository's own file for the variant that is named, and then train its `tiny` for two
epochs of one step. Commands that set a machine up are checked for what they name;
`.ci/run` runs `make test`, and `make release-check` installs.
"""

import importlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_fixtures import make_pair, write
from vgg_fixtures import SHAPES
from web_fixtures import fetched

from hkdnet_jax.common.image_files import image_size

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SHORT = """
_full = get_config


def get_config(variant=""):
    _full(variant)  # the variant that is named exists
    config = _full("tiny")
    config.loss.percep = _full(variant).loss.percep
    config.mesh.data = 1
    config.train.batch_size = 2
    config.data.samples_per_epoch = 2
    config.model.dfag = config.model.cea = False
    return config
"""


def commands():
    """The commands of the page's blocks of code, with continued lines joined."""
    blocks = re.findall(r"^```\n(.*?)^```", README, flags=re.M | re.S)
    text = "".join(blocks).replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, True))]


SERVES = "hkdnet_jax.demo"  # until a signal
SET_UP = ("make", "pip", "python3")


def test_every_command_is_checked():
    first = [words[0] for words in commands()]
    assert set(first) == {"python", *SET_UP} and first.count("python") >= 6
    assert all(w[1] == "-m" for w in commands() if w[0] == "python")


def test_what_sets_a_machine_up_is_there():
    makefile, project = ((ROOT / f).read_text() for f in ("Makefile", "pyproject.toml"))
    for words in commands():
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.M), words
        for extra in re.findall(r"\.\[(\w+)\]", " ".join(words)):
            assert re.search(rf"^{extra} = \[", project, re.M), extra


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with what the commands read."""
    home = tmp_path_factory.mktemp("user")
    for kind, image in zip(("ir", "vis"), make_pair(0, 16, 16), strict=True):
        write(home / f"{kind}.png", image)
    for seed, stem in enumerate("ab"):
        ir, vis = make_pair(seed, 48, 48)
        write(home / "data/ir" / f"{stem}.png", ir)
        write(home / "data/vis" / f"{stem}.png", vis)
        for method in ("densefuse", "ours"):
            write(home / "out" / method / f"{stem}.png", (ir // 2 + vis // 2))
    for number in range(20):
        large = make_pair(number, 48, 48)
        for kind, image in zip(("ir", "vis"), large, strict=True):
            write(home / "DATA/roadscene" / kind / f"{number}.png", image)
    rng = np.random.default_rng(0)
    np.savez(
        home / "vgg16.npz",
        **{
            f"{name}/{part}": 0.03 * rng.standard_normal(shape, np.float32)
            for name, (i, o) in SHAPES.items()
            for part, shape in (("kernel", (3, 3, i, o)), ("bias", (o,)))
        },
    )
    shutil.copytree(ROOT / "configs", home / "configs")
    for name in ("teacher", "student_x2"):
        file = home / "configs" / f"{name}.py"
        file.write_text(file.read_text() + SHORT)
    return home


def test_the_page_is_served_where_it_says():
    pytest.importorskip("gradio", reason="the extra web is not installed")
    (words,) = (w for w in commands() if w[-1] == SERVES)
    command = [sys.executable, *words[1:]]
    page = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    address = re.search(r"http://[\w.:]+/", page.stdout.readline())[0]
    assert address in README
    # The socket listens before the server does: an answer says that it has begun.
    assert fetched(address, "", timeout=300)[0] == 200
    page.send_signal(signal.SIGINT)
    page.communicate(timeout=300)
    assert page.returncode == 0


def test_the_commands_run_word_for_word(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    for words in commands():
        if words[0] == "python" and words[-1] != SERVES:
            code = importlib.import_module(words[2]).main(words[3:])
            assert code == 0, (words, capfd.readouterr().err)
    assert image_size(folder / "fused.png") == (32, 32)
    assert image_size(folder / "fused/a.png") == (192, 192)
    assert (folder / "scores.json").exists() and (folder / "table.md").exists()
    for run in ("teacher", "x2"):
        assert (folder / "runs" / run / "model.safetensors").exists()
