"""Runs commands in this process and looks at what they print."""


def run(command, capfd, *args):
    """Exit code, stdout and the lines of stderr (without the progress bar) of main."""
    code = command.main([str(arg) for arg in args])
    out, err = capfd.readouterr()
    lines = [x for x in err.replace("\r", "\n").split("\n") if x and "%|" not in x]
    assert "Traceback" not in err
    return code, out, lines


def fails(command, capfd, *args, says=()):
    """The one sentence, which holds `says`, of a command that must return 1."""
    code, out, errors = run(command, capfd, *args)
    assert (code, out, len(errors)) == (1, "", 1), (code, out, errors)
    assert errors[0].startswith("error: ") and errors[0].endswith(".")
    for words in says:
        assert str(words) in errors[0]
    return errors[0]
