"""Sentences of the commands in the words of the page."""

import re
from pathlib import Path

import pytest

from hkdnet_jax.common import palettes
from hkdnet_jax.web.wording import LABELS, public

IR, VIS, ZIP = Path("/tmp/a/x/ir.png"), Path("/tmp/a/y/vis.png"), Path("/tmp/a/x")
NAMES = {IR: "ir.png", VIS: "vis.png"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            f"{IR} is 8x9 but {VIS} is 9x9: give --match if they show one view.",
            "ir.png is 8x9 but vis.png is 9x9: give “Match sizes” if they show one "
            "view.",
        ),
        (
            "lite cannot be used at --scale 1: give --scale 2, 3 or 4.",
            "lite cannot be used at “Scale” 1: give “Scale” 2, 3 or 4.",
        ),
        (
            f"{IR} and {VIS} cannot be aligned, because the sky is blue: register them "
            "by hand, or leave out --align.",
            "ir.png and vis.png cannot be aligned, because the sky is blue: register "
            "them by hand, or leave out “Align”.",
        ),
        (
            "--ir-range: 'x' is not a range: give auto.",
            "“Infrared range”: 'x' is not a range: give auto.",
        ),
        (
            f"{IR} takes 3 GB, but only 2 GB are free: give --tile 512.",
            "ir.png takes 3 GB, but only 2 GB are free: make it smaller.",
        ),
        (
            "It has 3 pages, of which only the first is used; --pages all uses all.",
            "It has 3 pages, of which only the first is used; the command fuse --pages "
            "all uses all.",
        ),
    ],
)
def test_paths_become_names_and_flags_labels(given, said):
    assert public(given, NAMES) == said


def test_a_file_in_a_folder_keeps_the_rest_of_its_path():
    names = {ZIP: "pairs.zip", IR: "the infrared one"}
    said = public(f"{IR}, {ZIP}/ir/b.png and {ZIP}", names)
    assert said == "the infrared one, pairs.zip/ir/b.png and pairs.zip"


def test_the_note_on_false_colours_offers_no_file():
    said = public(palettes.false_colour_note("--ir-palette"), {})
    assert "“Infrared palette” ironbow" in said and "file" not in said


def test_one_folder_for_both_sides_is_told_without_flags(tmp_path):
    from hkdnet_jax.common.errors import UserError
    from hkdnet_jax.common.pair_files import find_pairs

    (tmp_path / "a.png").touch()
    with pytest.raises(UserError) as caught:
        find_pairs(tmp_path, tmp_path)
    said = public(str(caught.value), {tmp_path: "pairs.zip"})
    assert said.startswith("pairs.zip is one folder,")
    assert said.endswith(": give two folders named ir and vis.") and "--" not in said


def test_every_label_stands_for_a_flag_of_fuse():
    from hkdnet_jax.fuse import _parser

    flags = _parser().format_help()
    for flag in LABELS:
        assert re.search(rf"--{flag}\b", flags)
