"""Made-up tools for the scripts that borrow slices."""

import pytest
from fake_tools import FLAGS, Fakes
from slice_fixtures import ENDED, MISSING, SCRIPTS


@pytest.fixture
def fakes(tmp_path):
    made = Fakes(tmp_path, ("gcloud", "git"))
    made.answer(follow=ENDED)
    return made


@pytest.fixture
def borrow(request, fakes):
    """A function that runs a script, whose cloud answers as told.

    What happens in the life of a slice is the same code for both: it is `tpu.sh`, but
    where a test asks for both.
    """
    script = getattr(request, "param", "tpu.sh")
    states, settings = SCRIPTS[script]

    def run(*arguments, state=("ready",), answers=None, **more):
        told = [MISSING, *(states.get(s, s) for s in state)]
        fakes.answer(state=told, **(answers or {}))
        return fakes.run(script, *arguments, *FLAGS, **(settings | more))

    return run
