"""From the paths and flags of a user to jobs."""

import argparse

import pytest
from command_fixtures import make_pair, write

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.inference import job_arguments
from hkdnet_jax.inference.jobs import collect_jobs, tiling_note


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
        ("empty", "vis/../empty2", "out", ("empty", "no pictures", ".png")),
        ("ir", "ir", "out", ("ir is both --ir and --vis", "--ir-pattern")),
        ("ir/a.png", "ir/a.png", "out.png", ("ir/a.png is both --ir and --vis",)),
    ],
)
def test_bad_paths(folders, tmp_path, ir, vis, out, says):
    (tmp_path / "link.png").symlink_to(tmp_path / "vis" / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty2").mkdir()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(UserError) as error:
        collect_jobs(tmp_path / ir, tmp_path / vis, tmp_path / out)
    for words in says:
        assert words in str(error.value)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_one_pair_of_files(folders, tmp_path):
    ir, vis, out = (tmp_path / name for name in ("ir/a.png", "vis/b.png", "out.png"))
    found = collect_jobs(ir, vis, out)
    (job,), problems = found.jobs, found.problems
    assert (job.pair.ir, job.pair.vis, job.out, problems) == (ir, vis, out, [])


def test_folders_of_pairs(folders, tmp_path):
    (tmp_path / "vis" / "b.png").unlink()
    found = collect_jobs(*folders, tmp_path / "out")
    jobs, problems = found.jobs, found.problems
    assert [job.pair.name for job in jobs] == ["a", "c"]
    assert jobs[1].pair.vis == tmp_path / "vis" / "c.png"
    assert [job.out for job in jobs] == [tmp_path / "out" / f"{s}.png" for s in "ac"]
    (problem,) = problems
    assert str(tmp_path / "ir" / "b.png") in problem and "no partner" in problem


def test_tiling_in_words(folders, tmp_path):
    write(tmp_path / "ir" / "b.png", make_pair(0, 64, 100)[0])
    (tmp_path / "ir" / "c.png").write_text("no image")
    jobs = collect_jobs(*folders, tmp_path / "out").jobs
    assert tiling_note(jobs, 64).startswith(
        "1 of 3 inputs were cut into 2 tiles of at most 64x64 pixels"
    )
    assert "none was cut" in tiling_note(jobs, 100)


def read_jobs(*words):
    """What the command collects, given these arguments."""
    parser = argparse.ArgumentParser()
    job_arguments.add_job_arguments(parser)
    return job_arguments.read_jobs(parser.parse_args([str(word) for word in words]))


@pytest.fixture
def given(folders, tmp_path):
    """The arguments of the pairs a, b and c."""
    return ["--ir", folders[0], "--vis", folders[1], "--out", tmp_path / "out"]


@pytest.mark.parametrize(
    ("suffix", "name"),
    [
        ("_fused", "a_fused.png"),
        (".tif", "a.tif"),
        ("_x2.JPG", "a_x2.JPG"),
        ("", "a.png"),
    ],
)
def test_a_suffix_follows_the_scene(given, suffix, name):
    assert read_jobs(*given, "--suffix", suffix).jobs[0].out.name == name


def test_shards_are_all_of_the_work_once(given, tmp_path):
    (tmp_path / "ir" / "lonely.png").write_bytes(b"")
    parts = [read_jobs(*given, "--shard", f"{i}/2") for i in (0, 1)]
    names = [[job.pair.name for job in part.jobs] for part in parts]
    assert names == [["a", "c"], ["b"]]
    assert [len(part.problems) for part in parts] == [1, 0]


@pytest.mark.parametrize("text", ["2/2", "1", "-1/2", "a/b", "0/0", "1/2/3"])
def test_what_is_no_shard(given, text):
    with pytest.raises(UserError, match="must be I/N with I from 0 to N-1"):
        read_jobs(*given, f"--shard={text}")


def test_what_exists_is_skipped(given, tmp_path):
    write(tmp_path / "out" / "b.png", make_pair()[0])
    assert len(read_jobs(*given, "--overwrite").jobs) == 3
    found = read_jobs(*given, "--skip-existing")
    assert [job.pair.name for job in found.jobs] == ["a", "c"]
    assert found.notes == ["1 of 3 outputs are there already."]


def test_the_structure_of_nested_folders_is_kept(given, tmp_path):
    for kind in ("ir", "vis"):
        write(tmp_path / kind / "day" / "d.png", make_pair()[0])
    found = read_jobs(*given, "--recursive")
    assert found.jobs[-1].out == tmp_path / "out" / "day" / "d.png"
    inside = [*given[:-1], tmp_path / "vis" / "out"]
    assert len(read_jobs(*inside).jobs) == 3
    with pytest.raises(
        UserError, match=r"is inside of .*vis, all of which is searched"
    ):
        read_jobs(*inside, "--recursive")


def test_a_list(given, tmp_path):
    text = "ir/a.png,vis/b.png\nir/b.png,vis/c.png,day/x.tif\nir/c.png,vis/c.png,y\n"
    (tmp_path / "l.csv").write_text(text)
    found = read_jobs("--list", tmp_path / "l.csv", *given[4:], "--suffix", "_f")
    outs = [job.out.relative_to(tmp_path / "out").as_posix() for job in found.jobs]
    assert outs == ["a_f.png", "day/x.tif", "y_f.png"]
    assert found.jobs[0].pair.vis == tmp_path / "vis" / "b.png"
    (tmp_path / "l.csv").write_text("ir/a.png,vis/b.png,ir/a.png\n")
    (problem,) = read_jobs("--list", tmp_path / "l.csv", "--out", tmp_path).problems
    assert "an output of" in problem and "is the input" in problem
    with pytest.raises(UserError, match="drop --ir, --vis"):
        read_jobs("--list", tmp_path / "l.csv", *given)
    with pytest.raises(UserError, match="Give both --ir and --vis, or --list"):
        read_jobs(*given[2:])


def test_a_suffix_is_no_path(given):
    with pytest.raises(UserError, match="--suffix 'x/y' must be part"):
        read_jobs(*given, "--suffix", "x/y")


def test_patterns_reach_the_search(given, tmp_path):
    found = read_jobs(*given, "--ir-pattern", "*.png", "--vis-pattern", "b*.png")
    assert found.jobs == []
