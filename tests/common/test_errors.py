"""How commands end."""

import io
import sys

import pytest

from hkdnet_jax.common.errors import UserError, either, exit_code, listing, needs_extra


@pytest.mark.parametrize("code", [0, 3])
def test_work_that_ends_by_itself(capsys, code):
    assert exit_code(lambda: code) == code
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("a.png is broken."), 1, "error: a.png is broken.\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; nothing is lost.\n"),
        (
            PermissionError(13, "Permission denied", "/data/ir"),
            1,
            "error: /data/ir cannot be used (Permission denied): check that it is "
            "there and that you may read and write it.\n",
        ),
    ],
)
def test_work_that_is_cut_short(capsys, error, code, said):
    def run():
        raise error

    assert exit_code(run, interrupted="nothing is lost") == code
    assert capsys.readouterr() == ("", said)


def test_a_package_that_is_not_installed():
    with pytest.raises(UserError) as raised, needs_extra("Baking", "train"):
        import no_such_package  # noqa: F401
    assert str(raised.value) == (
        "Baking needs packages that are not installed (No module named "
        "'no_such_package'): run pip install 'hkdnet-jax[train]'."
    )


def test_no_extra_brings_a_module_of_ours():
    with pytest.raises(ModuleNotFoundError), needs_extra("Baking", "train"):
        import hkdnet_jax.no_such_module  # noqa: F401


def test_a_fault_of_ours_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 // 0)

    def run():
        raise OSError("without a file")

    with pytest.raises(OSError, match="without a file"):
        exit_code(run)


def test_output_that_cannot_be_written_is_said(monkeypatch, capsys):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    worked = []

    def run():
        print("Wrote a.png.")
        worked.append(1)
        return 0

    assert exit_code(run) == 1
    assert worked == [1]
    assert capsys.readouterr().err == (
        "error: standard output cannot be written to (No space left on device).\n"
    )


def test_either():
    assert either((2, 3, 4)) == "2, 3 or 4"
    assert [either(["a", "b"]), either("c")] == ["a or b", "c"]


def test_listing():
    assert listing(["a", "b"]) == "a; b"
    assert listing(["a", "b", "c"], limit=2) == "a; b; and 1 more"
