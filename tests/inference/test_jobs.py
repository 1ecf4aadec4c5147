"""From the paths and flags of a user to jobs and options."""

import pytest
from command_fixtures import make_pair, write

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.inference.folder import Options
from hkdnet_jax.inference.jobs import collect_jobs, describe_tiling, read_options


@pytest.fixture
def folders(tmp_path):
    """Two folders with the pairs a, b and c."""
    for seed, stem in enumerate("abc"):
        for kind, image in zip(("ir", "vis"), make_pair(seed), strict=True):
            write(tmp_path / kind / f"{stem}.png", image)
    return tmp_path / "ir", tmp_path / "vis"


@pytest.mark.parametrize(
    ("ir", "vis", "out", "says"),
    [
        ("ir/a.png", "vis", "out.png", ("ir/a.png is a file", "vis is a folder")),
        ("ir", "vis/a.png", "out", ("vis/a.png is a file", "ir is a folder")),
        ("ir/a.png", "vis/a.png", "vis", ("--out", "vis is a folder")),
        ("ir", "vis", "ir/a.png", ("--out", "ir/a.png is a file")),
        ("ir", "vis", "new.png", ("--out", "new.png is a file")),
        ("ir/a.png", "vis/a.png", "ir/a.png", ("--ir", "overwritten")),
        ("ir/a.png", "vis/a.png", "link.png", ("--vis", "overwritten")),
        ("ir", "vis", "vis", ("--vis", "overwritten")),
        ("ir", "vis", "vis/../ir", ("--ir", "overwritten")),
        ("ir/a.png", "vis/a.png", "out.webp", ("out.webp", ".png")),
        ("ir/a.png", "vis/a.png", "out", ("out", ".png")),
        ("ir/z.png", "vis/a.png", "out.png", ("ir/z.png does not exist",)),
        ("ir", "nowhere", "out", ("nowhere does not exist",)),
        ("empty", "empty", "out", ("empty", "no pictures", ".png")),
    ],
)
def test_bad_paths(folders, tmp_path, ir, vis, out, says):
    (tmp_path / "link.png").symlink_to(tmp_path / "vis" / "a.png")
    (tmp_path / "empty").mkdir()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(UserError) as error:
        collect_jobs(tmp_path / ir, tmp_path / vis, tmp_path / out)
    for words in says:
        assert words in str(error.value)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_one_pair_of_files(folders, tmp_path):
    ir, vis, out = (tmp_path / name for name in ("ir/a.png", "vis/b.png", "out.png"))
    (job,), problems = collect_jobs(ir, vis, out)
    assert (job.pair.ir, job.pair.vis, job.out, problems) == (ir, vis, out, [])


def test_folders_of_pairs(folders, tmp_path):
    (tmp_path / "vis" / "b.png").unlink()
    jobs, problems = collect_jobs(*folders, tmp_path / "out")
    assert [job.pair.name for job in jobs] == ["a", "c"]
    assert jobs[1].pair.vis == tmp_path / "vis" / "c.png"
    assert [job.out for job in jobs] == [tmp_path / "out" / f"{s}.png" for s in "ac"]
    (problem,) = problems
    assert str(tmp_path / "ir" / "b.png") in problem and "no partner" in problem


def test_options():
    assert read_options("minmax", True, 64, "3GB") == Options(
        "minmax", True, 64, 3 * 10**9
    )
    assert read_options("unit", False, None, None) == Options()


@pytest.mark.parametrize(
    ("tile", "max_memory", "says"),
    [
        (None, "4", "--max-memory: '4' is not an amount of memory such as 4GB or"),
        (None, "0GB", "not an amount of memory"),
        (63, None, "--tile 63 is too small: give at least 64 pixels"),
    ],
)
def test_senseless_limits(tile, max_memory, says):
    with pytest.raises(UserError, match=says):
        read_options("unit", False, tile, max_memory)


def test_tiling_in_words(folders, tmp_path):
    write(tmp_path / "ir" / "b.png", make_pair(0, 64, 100)[0])
    (tmp_path / "ir" / "c.png").write_text("no image")
    jobs, _ = collect_jobs(*folders, tmp_path / "out")
    assert describe_tiling(jobs, 64).startswith(
        "1 of 3 inputs were cut into 2 tiles of at most 64x64 pixels"
    )
    assert "none was cut" in describe_tiling(jobs, 100)
