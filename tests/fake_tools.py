"""Made-up gcloud, kubectl, ssh and Slurm on PATH, which fail where a test wants."""

import os
import shlex
import subprocess
import time
from pathlib import Path

LAUNCH = Path(__file__).resolve().parents[1] / "launch"
TIMEOUT = 300  # seconds; nothing takes as long
AWKWARD = '--config.teacher.dir=a b\'s $(HOME) "$HOME"'
FLAGS = ("--config=configs/a.py", "--workdir=gs://b/run")  # what each training needs

# A call is written down as its step and its words.  Its answer is the line of the file
# answers/STEP that has its number, or the last one: an exit code and a text.
_TOOL = r"""#!/usr/bin/env bash
tool=${0##*/} all=" $* " command=
case $tool in ssh) command=${*: -1} ;; esac
for word in "$@"; do
    [[ $word != --command=* ]] || command=${word#--command=}
done
case $tool:$all in
git:*) step=git ;;
*' scp '*) step=send ;;
*' ssh '* | ssh:*)
    case $command in
    *'uv venv'*) step=install ;;
    *setsid* | *hkdnet_jax.main*) step=start ;;
    *'tail -n +'*) step=follow ;;
    *'kill -TERM'*) step=stop ;;
    *'tail -n 5'*) step=tails ;;
    *) step=ssh ;;
    esac
    ;;
*failedData* | *' operations list '* | *'type=="Failed"'*) step=reason ;;
*' delete '*) step=delete ;;
*' describe '* | *' list-instances '* | kubectl:*' get '*) step=state ;;
*' workload-policy '*) step=policy ;;
*' instance-templates create '*) step=template ;;
*' managed create '*) step=group ;;
*' create '*) step=create ;;
*' resize '*) step=resize ;;
*' logs '*) step=logs ;;
*) step=$tool ;;
esac
number=1 # of this call of the step; others may be made at the same time
set -C
until { : >"$FAKE/counts/$step.$number"; } 2>/dev/null; do number=$((number + 1)); done
set +C
printf -v line '%s\x1f' "$step" "$tool" "$@"
printf '%s\n' "$line" >>"$FAKE/calls"
[[ $step != create || $tool != kubectl ]] || cat >"$FAKE/manifest"
if [[ ${FAKE_HOST:-} && $step =~ ^(start|follow|stop|tails)$ ]]; then
    cd "$FAKE_HOST" && exec bash -c "$command"
fi
for word in "$@"; do # the archive that `git archive` makes
    [[ $step != git || $word != --output=* ]] || : >"${word#--output=}"
done
[[ -f $FAKE/answers/$step ]] || exit 0
mapfile -t answers <"$FAKE/answers/$step"
((number <= ${#answers[@]})) || number=${#answers[@]}
answer=${answers[number - 1]}
code=${answer%% *} text=${answer#* }
if [[ $code == hang ]]; then
    : >"$FAKE/hanging"
    exec sleep 60
fi
case $code in
lost)
    until (($(grep -c ^start "$FAKE/calls") % 2 == 0)); do sleep 0.01; done
    exit 255
    ;;
until-stopped)
    until [[ -e $FAKE/counts/stop.1 ]]; do sleep 0.01; done
    exit 143
    ;;
esac
((code != 0 && code != 255)) || printf '%b' "$text"
((code == 0 || code == 255)) || printf '%b' "$text" >&2
exit "$code"
"""


class Fakes:
    """The tools of one test.

    Attributes:
      folder: holds what they read and write.
    """

    def __init__(self, folder: Path, tools: tuple[str, ...]):
        self.folder = folder
        for name in ("bin", "answers", "counts", "tmp"):
            (folder / name).mkdir()
        first = folder / "bin" / tools[0]
        first.write_text(_TOOL)
        first.chmod(0o755)
        for tool in tools[1:]:
            (folder / "bin" / tool).hardlink_to(first)

    def answer(self, **steps: str | list[str]) -> None:
        """Sets the answers to the calls of a step, in their order.

        Each is "CODE TEXT", "hang", "lost" for a connection that is lost once the
        processes on two nodes have been started, or "until-stopped" for a process that
        goes on until one is told to end, and has then saved (143).
        """
        for step, answers in steps.items():
            answers = [answers] if isinstance(answers, str) else answers
            lines = [a.replace("\n", "\\n") + "\n" for a in answers]
            (self.folder / "answers" / step).write_text("".join(lines))

    def environment(self, **settings: str) -> dict[str, str]:
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        own = {"FAKE": str(self.folder), "TMPDIR": str(self.folder / "tmp")}
        return os.environ | {"PATH": path, "POLL": "0"} | own | settings

    def run(self, script: str, *arguments: str, **settings: str):
        """Runs a script of launch/ to its end."""
        return subprocess.run(
            ["bash", LAUNCH / script, *arguments],
            env=self.environment(**settings),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )

    def calls(self) -> list[list[str]]:
        """All calls in their order, each the step, the tool and its arguments."""
        file = self.folder / "calls"
        text = file.read_text() if file.exists() else ""
        return [line.split("\x1f")[:-1] for line in text.splitlines()]

    def wait_until_it_hangs(self) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not (self.folder / "hanging").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def steps(self) -> list[str]:
        return [call[0] for call in self.calls() if call[0] != "git"]


def dry_commands(done) -> list[list[str]]:
    """The commands that a dry run printed, as words."""
    return [shlex.split(line) for line in done.stdout.splitlines()]
