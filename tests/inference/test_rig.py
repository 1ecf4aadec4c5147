"""One offset for all pairs of two cameras on a fixed rig."""

import functools

import command_fixtures
import numpy as np
import pytest
from command_fixtures import write
from test_alignment import H, W, matrix, moved, scene

from hkdnet_jax import fuse

run = functools.partial(command_fixtures.run, fuse)
fails = functools.partial(command_fixtures.fails, fuse)


def write_pair(root, name, ir, vis):
    for kind, image in (("ir", ir), ("vis", vis)):
        levels = np.clip(np.rint(255 * image), 0, 255).astype(np.uint8)
        write(root / kind / f"{name}.png", levels)


@pytest.fixture
def flags(models, tmp_path):
    """Three pairs that are off by the same, and two that show nothing in common."""
    for seed, name in enumerate("ace"):
        ir, vis = scene(seed)
        write_pair(tmp_path, name, moved(ir, matrix(x=5, y=-3)), vis)
    for seed, name in enumerate("bd"):
        noise = np.random.default_rng(seed).random((2, H, W))
        write_pair(tmp_path, name, *noise)
    flags = [f"--ir={tmp_path / 'ir'}", f"--vis={tmp_path / 'vis'}", "--align-once"]
    return [*flags, "--align=translation", f"--model={models[1]}"]


def test_shards_take_the_offset_of_all_pairs(flags, tmp_path, capfd):
    said = []
    for part, count in enumerate((3, 2)):
        out = tmp_path / f"out{part}"
        code, _, lines = run(capfd, *flags, "--out", out, f"--shard={part}/2")
        assert code == 0 and len(list(out.iterdir())) == count
        said += lines
    assert len(said) == 2 and said[0] == said[1]
    assert "pairs of this rig are off by +5.0, -3.0 pixels" in said[0]


def test_pairs_of_several_sizes_are_no_rig(flags, tmp_path, capfd):
    ir, vis = scene(7)
    write_pair(tmp_path, "f", ir[:-8], vis[:-8])
    says = ("--align-once needs pairs of one size", f"{W}x{H - 8}", f"{W}x{H}")
    fails(capfd, *flags, "--out", tmp_path / "out", says=says)


def test_pairs_that_do_not_agree_are_no_rig(flags, tmp_path, capfd):
    for seed, name in enumerate("xyz", 9):
        ir, vis = scene(seed)
        write_pair(tmp_path, name, moved(ir, matrix(x=-4 * (seed - 8))), vis)
    says = ("--align-once finds no offset", "leave it out")
    fails(capfd, *flags, "--out", tmp_path / "out", says=says)
