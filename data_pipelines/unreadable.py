"""Training goes on without the few pairs that can no longer be read."""

import sys
from typing import Any

from hkdnet_jax.common.errors import UserError


class Replacing:
    """A source in which the next readable pair stands in for one that is not.

    All files were readable when the run began (`loader.PairSource` looks at their
    headers), but a disk or a network may lose some in the hours after.  A pair is tried
    again at each of its visits, so one that comes back is used again.
    """

    def __init__(self, source: Any, limit: int):
        """Reads nothing yet.

        Args:
          source: a `loader.Source`.
          limit: number of unreadable pairs that are put up with.
        """
        self.names = source.names
        self._source, self._limit = source, limit
        self._unreadable: set[int] = set()

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        """The pair `index`, or the first readable one after it.

        Every pair that cannot be read is reported once on stderr, with the number of
        such pairs.

        Raises:
          UserError: more than `limit` pairs cannot be read.
        """
        while True:
            try:
                return self._source[index]
            except UserError as error:
                self._count(index, error)
            index = (index + 1) % len(self)

    def _count(self, index: int, error: UserError) -> None:
        new = index not in self._unreadable
        self._unreadable.add(index)
        number = len(self._unreadable)
        if number > min(self._limit, len(self) - 1):
            raise UserError(
                f"{number} of {len(self)} training pairs cannot be read any more "
                f"(config.data.max_unreadable is {self._limit}), the last one because: "
                f"{error}"
            ) from error
        if new:
            print(
                f"Warning: {str(error).rstrip('.')}. The pair after it is used in its "
                f"place; this is the {number}. of at most {self._limit} such pairs "
                "(config.data.max_unreadable).",
                file=sys.stderr,
            )
