"""What a run says of each file: notes, failures, and lines of JSON."""

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
from tqdm import tqdm

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.inference.inputs import Inputs, Note
from hkdnet_jax.inference.jobs import Job


class Listener(Protocol):
    """Is told what becomes of each job.

    Attributes:
      failures: a sentence for each job that failed.
    """

    failures: dict[Job, str]

    def stage(self, text: str) -> None:
        """What is being done now, as a participle such as `fusing`."""

    def say(self, notes: Iterable[Note]) -> None:
        """What a user should know about the files."""

    def failed(self, job: Job, sentence: str) -> None:
        """A job failed."""

    def wrote(
        self, job: Job, inputs: Inputs, shape: tuple[int, ...], seconds: float
    ) -> None:
        """A picture of this shape was written, `seconds` after its turn came."""


class Report:
    """The listener of a command: prints to stderr, and writes lines of JSON.

    Attributes:
      failures: a sentence for each job that failed.
    """

    def __init__(self, total: int, lines: TextIO | None = None):
        """Draws an empty progress bar on stderr.

        Args:
          total: the number of jobs.
          lines: where a line of JSON goes for each job; None for nowhere.
        """
        self.failures: dict[Job, str] = {}
        self._lines = lines
        self._said: set[str] = set()
        self._bar = tqdm(total=total, unit="pair", file=sys.stderr)

    def __enter__(self) -> "Report":
        """Returns itself; the bar is closed at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the bar."""
        self._bar.close()

    def stage(self, text: str) -> None:
        """Shows in the bar what is being done."""
        self._bar.set_description(text)

    def say(self, notes: Iterable[Note]) -> None:
        """Prints notes; one that was said of another file is left out."""
        for note in notes:
            if note.text not in self._said:
                self._said.add(note.text)
                self._bar.write(f"note: {note.path}: {note.text}", file=sys.stderr)

    def failed(self, job: Job, sentence: str) -> None:
        """Notes that a job failed."""
        self.failures[job] = sentence
        self._bar.update()
        self._write(job, {"error": sentence})

    def wrote(
        self, job: Job, inputs: Inputs, shape: tuple[int, ...], seconds: float
    ) -> None:
        """Notes that a picture of this shape was written.

        Args:
          job: whose picture it is.
          inputs: what was fused.
          shape: of the picture.
          seconds: the job's share of the run's time.
        """
        self._bar.update()
        height, width = inputs.ir.shape[:2]
        alignment = inputs.alignment
        self._write(
            job,
            {
                "size": [width, height],
                "output_size": [shape[1], shape[0]],
                "colour": len(shape) == 3,
                "ir_range": list(inputs.ranges[0]),
                "vis_range": list(inputs.ranges[1]),
                "alignment": None
                if alignment is None
                else {
                    "matrix": np.round(alignment.matrix, 6).tolist(),
                    "centre": [round(x, 3) for x in alignment.centre],
                    "farthest": round(alignment.farthest, 3),
                    "score": round(alignment.score, 3),
                },
                "seconds": round(seconds, 4),
                "error": None,
            },
        )

    def _write(self, job: Job, values: Mapping[str, Any]) -> None:
        if self._lines is None:
            return
        files = {"ir": job.pair.ir, "vis": job.pair.vis, "out": job.out}
        line = {name: str(path) for name, path in files.items()} | dict(values)
        self._lines.write(json.dumps(line) + "\n")
        # A run that is killed loses no line of a picture that it wrote.
        self._lines.flush()


@contextlib.contextmanager
def open_lines(path: Path | None, append: bool) -> Iterator[TextIO | None]:
    """Opens the file that gets a line of JSON per job.

    Args:
      path: the file; None for none.
      append: whether lines that are there stay, as in a run that continues another.

    Yields:
      The open file, or None.

    Raises:
      UserError: it cannot be written to.
    """
    if path is None:
        yield None
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a" if append else "w", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"--json {path} cannot be written to ({error.strerror}): give another file."
        ) from error
    with file:
        yield file
