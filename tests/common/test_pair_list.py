"""Lists of pairs as CSV files."""

import os
from pathlib import PurePath

import pytest

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.pair_list import read_pair_list


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding, "surrogateescape"))
    return path


@pytest.mark.parametrize("heading", ["", "ir,vis,out\n", "ir,vis\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_lines(tmp_path, heading, encoding):
    text = (
        f'{heading}a/1.png, b/1.png\n\n"x,y.png",/vis/2.png,day/2.tif\n3.png,v.png,z\n'
    )
    found, problems = read_pair_list(write(tmp_path / "l.csv", text, encoding))
    assert problems == []
    assert [one.pair.name for one in found] == ["1", "day/2", "z"]
    assert [one.out for one in found] == [None, PurePath("day/2.tif"), PurePath("z")]
    assert found[0].pair.ir == tmp_path / "a/1.png"
    assert found[1].pair.ir == tmp_path / "x,y.png"
    assert str(found[1].pair.vis) == "/vis/2.png"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("1.png", "must hold ir,vis"),
        ("1.png,,o", "must hold ir,vis"),
        ("a,b,c,d", "must hold ir,vis"),
        ("1.png,1.png", "as both ir and vis"),
        ("1.png,2.png,../3.png", "outside of the folder"),
        ("1.png,2.png,/3.png", "outside of the folder"),
        ("0.png,v.png", "has the output 0, as an earlier line"),
        ("1.png,2.png,0.jpg", "has the output 0, as an earlier line"),
    ],
)
def test_lines_that_cannot_be_used(tmp_path, line, says):
    path = write(tmp_path / "l.csv", f"ir,vis\n0.png,v.png\n{line}\n4.png,v.png\n")
    found, problems = read_pair_list(path)
    assert [one.pair.name for one in found] == ["0", "4"]
    (problem,) = problems
    assert problem.startswith(f"line 3 of {path} ") and says in problem


def test_names_that_are_no_text(tmp_path):
    name = os.fsdecode(b"\xff.png")
    (one,), _ = read_pair_list(write(tmp_path / "l.csv", f"{name},v.png\n"))
    assert os.fsencode(one.pair.ir.name) == b"\xff.png"


def test_no_list(tmp_path):
    for text in ("", "ir,vis,out\n"):
        with pytest.raises(UserError, match="lists no pair"):
            read_pair_list(write(tmp_path / "l.csv", text))
    with pytest.raises(UserError, match=r"none\.csv cannot be read as a list of pairs"):
        read_pair_list(tmp_path / "none.csv")
