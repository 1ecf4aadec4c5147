"""From flags to options."""

import argparse

import pytest

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.levels import Range
from hkdnet_jax.inference.options import Options, add_option_arguments, read_options


def read(*words):
    parser = argparse.ArgumentParser()
    add_option_arguments(parser)
    return read_options(parser.parse_args(words))


def test_options():
    assert read() == Options()
    given = read("--normalize=minmax", "--stretch", "--tile=64", "--max-memory=3GB")
    assert given == Options("minmax", True, 64, 3 * 10**9)


def test_levels():
    given = read("--ir-range=7000:9000", "--vis-range=full", "--range-per=image")
    assert given.ir_range == Range(7000, 9000) and given.vis_range == "full"
    assert given.range_per == "image"
    given = read("--ir-palette=ironbow", "--output-depth=16")
    assert (given.ir_palette, given.depth) == ("ironbow", "16")


@pytest.mark.parametrize(
    ("word", "says"),
    [
        (
            "--max-memory=4",
            "--max-memory: '4' is not an amount of memory such",
        ),
        ("--max-memory=0GB", "not an amount of memory"),
        ("--devices=5", "--devices 5 must be from 1 to 4, which are all here"),
        ("--devices=0", "--devices 0 must be from 1 to 4"),
        ("--align-once", "--align-once needs a motion: add --align affine"),
        ("--tile=63", "--tile 63 is too small: give at least 64 pixels"),
        ("--ir-range=9:7", "--ir-range: '9:7' is not a range: give auto"),
        ("--vis-range=x", "--vis-range: 'x' is not a range"),
        ("--ir-palette=none.csv", r"none\.csv cannot be read as a palette"),
    ],
)
def test_senseless_limits(word, says):
    with pytest.raises(UserError, match=says):
        read(word)


def test_a_range_and_minmax_contradict_each_other():
    with pytest.raises(UserError, match="--vis-range full and --normalize minmax"):
        read("--vis-range=full", "--normalize=minmax")
