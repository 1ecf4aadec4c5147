"""Many pairs of files: batches, their order, and images that do not fit."""

import functools
import os

import numpy as np
import pytest
from command_fixtures import H, W, make_pair, write
from PIL import Image

from hkdnet_jax.common import atomic_files
from hkdnet_jax.inference import folder, groups, programs
from hkdnet_jax.inference.jobs import collect_jobs
from hkdnet_jax.inference.options import Options
from hkdnet_jax.inference.pair import fuse_pair
from hkdnet_jax.inference.shapes import cover
from hkdnet_jax.model_files.model import Model


def read(path):
    return np.asarray(Image.open(path))


def write_pairs(root, sizes):
    """Pairs of these stems and (height, width), in root/ir and root/vis."""
    for seed, (stem, size) in enumerate(sizes.items()):
        for kind, image in zip(("ir", "vis"), make_pair(seed, *size), strict=True):
            write(root / kind / f"{stem}.png", image)


def jobs_of(root):
    """The pairs of root/ir and root/vis, to be written to root/out."""
    atomic_files.make_writable(root / "out")
    return collect_jobs(root / "ir", root / "vis", root / "out").jobs


def test_equal_sizes_go_together_and_the_largest_first(
    models, tmp_path, capfd, monkeypatch
):
    usual = (H, W)
    write_pairs(tmp_path, {"a": usual, "b": (H, 2 * W), "c": usual, "d": (H + 1, W)})
    real, seen = programs.choose, []

    def choose(model, size, count, *args, **more):
        seen.append((size, count))
        return real(model, size, count, *args, **more)

    monkeypatch.setattr(programs, "choose", choose)
    jobs = jobs_of(tmp_path)
    assert folder.fuse_files(Model.load(models[3]), jobs) == []
    assert seen == [((H, 2 * W), 1), ((H + 1, W), 1), ((H, W), 2)]
    assert "4/4" in capfd.readouterr().err
    assert [read(job.out).shape[1] for job in jobs] == [3 * W, 6 * W, 3 * W, 3 * W]


def test_a_folder_of_more_than_one_batch(models, tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "_PIXELS_AT_ONCE", 2 * H * W)
    write_pairs(tmp_path, dict.fromkeys("01234", (H, W)))
    write(tmp_path / "vis" / "3.png", make_pair(3, H + 1)[0])
    model, jobs = Model.load(models[3]), jobs_of(tmp_path)
    programs._compile.cache_clear()
    (failure,) = folder.fuse_files(model, jobs)
    assert "3.png" in failure
    assert programs._compile.cache_info().misses == 1
    for seed in (0, 1, 2, 4):
        expected = fuse_pair(model, *make_pair(seed)).astype(int)
        assert abs(read(jobs[seed].out) - expected).max() <= 1


@pytest.mark.parametrize("fits", [True, False])
def test_a_folder_of_many_sizes(models, tmp_path, monkeypatch, fits):
    monkeypatch.setattr(groups, "cover", functools.partial(cover, most=1))
    real, seen = programs.choose, []

    def choose(model, size, count, devices, free, beside, padded):
        seen.append((size, count, padded))
        if padded and not fits:
            raise programs.DoesNotFit(3, 2)
        return real(model, size, count, devices, free, beside, padded)

    monkeypatch.setattr(programs, "choose", choose)
    sizes = {"0": (H, W), "1": (H + 3, W), "2": (H, W + 2)}
    write_pairs(tmp_path, sizes)
    model, jobs = Model.load(models[3]), jobs_of(tmp_path)
    programs._compile.cache_clear()
    options = Options(stretch=True)
    assert folder.fuse_files(model, jobs, options) == []
    whole = ((H + 3, W + 2), 3, True)
    alone = [(size, 1, False) for size in sizes.values()]
    assert seen == ([whole] if fits else [whole, *alone])
    assert programs._compile.cache_info().misses == (1 if fits else 3)
    if not fits:
        return
    for seed, size in enumerate(sizes.values()):
        fused = read(jobs[seed].out)
        expected = fuse_pair(model, *make_pair(seed, *size), stretch=True)
        assert fused.shape == expected.shape == (3 * size[0], 3 * size[1])
        assert abs(fused.astype(int) - expected).max() <= 1
        assert (fused.min(), fused.max()) == (0, 255)


def test_images_refused_after_others_are_named(models, tmp_path, monkeypatch):
    write_pairs(
        tmp_path, dict.fromkeys("abc", (H, W)) | dict.fromkeys("de", (H, W + 4))
    )
    real = programs.choose

    def choose(model, size, *args, **more):
        if size == (H, W):
            raise programs.DoesNotFit(3 * 10**9, 2 * 10**9)
        return real(model, size, *args, **more)

    monkeypatch.setattr(programs, "choose", choose)
    failures = folder.fuse_files(Model.load(models[3]), jobs_of(tmp_path))
    assert len(failures) == 3
    for name, failure in zip("abc", failures, strict=True):
        assert f"{name}.png is {W}x{H} pixels" in failure
        assert failure.endswith("only 2.0 GB are free: use a smaller model.")
    assert sorted(os.listdir(tmp_path / "out")) == ["d.png", "e.png"]
