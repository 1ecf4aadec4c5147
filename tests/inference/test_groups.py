"""Jobs by the sizes of their files, and what happens to pairs of two sizes."""

import dataclasses
import functools
import json

import numpy as np
import pytest
from command_fixtures import H, W, make_pair, write
from PIL import Image

from hkdnet_jax import pretrained
from hkdnet_jax.common.pair_files import Pair
from hkdnet_jax.inference import groups as groups_module
from hkdnet_jax.inference import matching
from hkdnet_jax.inference.folder import fuse_files
from hkdnet_jax.inference.groups import by_program, by_size
from hkdnet_jax.inference.jobs import Job
from hkdnet_jax.inference.options import Options
from hkdnet_jax.inference.report import open_lines
from hkdnet_jax.inference.shapes import cover
from hkdnet_jax.model_files.model import Model


def job(root, name, ir, vis):
    """A job of two files of these (height, width)."""
    pair = (
        write(root / kind / f"{name}.png", make_pair(0, *size)[number])
        for number, (kind, size) in enumerate((("ir", ir), ("vis", vis)))
    )
    (root / "out").mkdir(exist_ok=True)
    return Job(Pair(name, *pair), root / "out" / f"{name}.png")


def names(shared):
    return [job.pair.name for job in shared.jobs]


def test_programs_begin_with_the_largest(tmp_path):
    sizes = {"a": (H, W), "b": (3 * H, W), "c": (H, W), "d": (H, W + 1)}
    jobs = [job(tmp_path, name, size, size) for name, size in sizes.items()]
    groups, failures = by_size(jobs, Options(), 2)
    assert failures == {}
    found = by_program(groups, None, pads=True)
    assert [shared.shape for shared in found] == [(3 * H, W), (H, W + 1), (H, W)]
    assert not any(shared.padded for shared in found)
    assert names(found[-1]) == ["a", "c"]


def test_many_sizes_share_programs(tmp_path, monkeypatch):
    monkeypatch.setattr(groups_module, "cover", functools.partial(cover, most=2))
    sizes = {"a": (H, W), "b": (H + 2, W), "c": (H, W + 1), "d": (3 * H, 3 * W)}
    jobs = [job(tmp_path, name, size, size) for name, size in sizes.items()]
    jobs += [job(tmp_path, "m", (H, W), (2 * H, 2 * W))]
    groups, failures = by_size(jobs, Options(match=True), 2)
    assert failures == {}
    found = by_program(groups, None, pads=True)
    # Matched pairs have the teacher's programs.
    assert [(shared.shape, names(shared)) for shared in found] == [
        ((3 * H, 3 * W), ["d"]),
        ((2 * H, 2 * W), ["m"]),
        ((H + 2, W + 1), ["a", "b", "c"]),
    ]
    assert [shared.padded for shared in found] == [False, False, True]
    assert [(s.shape, names(s)) for s in found[2].apart()] == [
        ((H, W), ["a"]),
        ((H + 2, W), ["b"]),
        ((H, W + 1), ["c"]),
    ]
    # The authors' network takes no padding, and tiles have one shape as they are.
    for tile, pads in ((None, False), (H - 1, True)):
        alone = by_program(groups, tile, pads)
        assert not any(shared.padded for shared in alone)
        assert sorted(names(s) for s in alone) == [["a"], ["b"], ["c"], ["d"], ["m"]]


def test_two_sizes_need_match(tmp_path):
    jobs = [
        job(tmp_path, "a", (H, W), (2 * H, 2 * W)),
        job(tmp_path, "b", (7, W), (H, W)),
    ]
    groups, failures = by_size(jobs, Options(), 1)
    assert groups == []
    for words in (f"a.png is {W}x{H}", f"a.png is {2 * W}x{2 * H}", "--match"):
        assert words in failures[jobs[0]]
    assert f"b.png is {W}x7 pixels, too small" in failures[jobs[1]]
    (group,), _ = by_size(jobs, Options(match=True), 1)
    assert group.plan == matching.plan((H, W), (2 * H, 2 * W))
    (group,), _ = by_size(jobs, Options(match=True), 3)
    assert group.size == (3 * H, 3 * W)
    tall = job(tmp_path, "c", (H, W), (3 * H, 2 * W))
    _, failures = by_size([tall], Options(match=True), 1)
    assert "aspect ratios differ by 50%" in failures[tall]


@pytest.fixture
def small_models(models, monkeypatch):
    """Models with random weights in the place of those of the package."""
    monkeypatch.setattr(pretrained, "load", lambda scale: Model.load(models[scale]))
    return models


def test_a_matched_pair_is_enlarged_and_fused_by_the_teacher(
    small_models, tmp_path, capfd
):
    one = job(tmp_path, "a", (H, W), (2 * H, 2 * W))
    teacher, student = (Model.load(small_models[scale]) for scale in (1, 2))
    with open_lines(tmp_path / "lines.json", False) as lines:
        options = Options(match=True, compare=True)
        assert fuse_files(teacher, [one], options, lines) == []
    ir, vis = (np.asarray(Image.open(path)) for path in (one.pair.ir, one.pair.vis))
    enlarged = student(ir, ir, depth="float")
    expected = teacher(enlarged, vis, ir_range="full")
    fused = np.asarray(Image.open(one.out)).astype(int)
    assert fused.shape == (2 * H, 2 * W)
    assert np.abs(fused - expected).max() <= 1
    with Image.open(one.out.with_name("a_compare.png")) as sheet:
        assert sheet.size == (3 * 2 * W, 2 * H + 16)
    assert "enlarged x2 by the student" in capfd.readouterr().err
    line = json.loads((tmp_path / "lines.json").read_text())
    assert line["output_size"] == [2 * W, 2 * H] and line["error"] is None
    assert line["ir_range"] == [0, 255] and line["alignment"] is None
    assert line["out"] == str(one.out) and line["seconds"] > 0


def test_a_matched_pair_is_fused_in_the_style_of_the_student(
    small_models, monkeypatch, tmp_path
):
    asked = []

    def load(scale, style="balanced"):
        asked.append((scale, style))
        return Model.load(small_models[scale])

    monkeypatch.setattr(pretrained, "load", load)
    student = Model.load(small_models[2])
    config = dataclasses.replace(student.network.config, skip_context=6.0)
    following = student.network.clone(config=config)
    one = job(tmp_path, "a", (H, W), (2 * H, 2 * W))
    for network, style in ((student.network, "balanced"), (following, "vivid")):
        model = dataclasses.replace(student, network=network)
        assert fuse_files(model, [one], Options(match=True)) == []
        assert (1, style) in asked
        asked.clear()


def test_lines_name_failures_and_are_added_to(small_models, tmp_path, capfd):
    jobs = [job(tmp_path, name, (H, W), (H, W)) for name in "ab"]
    jobs[1].pair.ir.write_bytes(b"no image")
    path = tmp_path / "deep" / "lines.json"
    for append in (False, True):
        with open_lines(path, append) as lines:
            failures = fuse_files(Model.load(small_models[3]), jobs, lines=lines)
    assert len(failures) == 1
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    assert [line["error"] is None for line in lines] == [False, True] * 2
    assert lines[0]["error"] == failures[0]
