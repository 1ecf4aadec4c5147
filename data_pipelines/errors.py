"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A mistake that one sentence explains: what is wrong, where, and the remedy.

    Commands print the sentence and exit with code 1; no stack trace.
    """
