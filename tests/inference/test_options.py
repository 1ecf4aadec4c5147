"""From flags to options."""

import argparse

import pytest

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.inference.options import Options, add_option_arguments, read_options


def read(*words):
    parser = argparse.ArgumentParser()
    add_option_arguments(parser)
    return read_options(parser.parse_args(words))


def test_options():
    assert read() == Options()
    given = read("--normalize=minmax", "--stretch", "--tile=64", "--max-memory=3GB")
    assert given == Options("minmax", True, 64, 3 * 10**9)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        (
            "--max-memory=4",
            "--max-memory: '4' is not an amount of memory such",
        ),
        ("--max-memory=0GB", "not an amount of memory"),
        ("--tile=63", "--tile 63 is too small: give at least 64 pixels"),
    ],
)
def test_senseless_limits(word, says):
    with pytest.raises(UserError, match=says):
        read(word)
