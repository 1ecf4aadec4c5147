"""How commands end."""

import pytest

from hkdnet_jax.common.errors import UserError, exit_code, listing, needs_extra


@pytest.mark.parametrize("code", [0, 3])
def test_work_that_ends_by_itself(capsys, code):
    assert exit_code(lambda: code) == code
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("a.png is broken."), 1, "error: a.png is broken.\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; nothing is lost.\n"),
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


def test_listing():
    assert listing(["a", "b"]) == "a; b"
    assert listing(["a", "b", "c"], limit=2) == "a; b; and 1 more"
