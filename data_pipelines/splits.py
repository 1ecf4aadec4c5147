"""Splits pairs into training and validation, by split files or a hash of the stem."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.pairs import StoredPair
from hkdnet_jax.common.errors import UserError, listing
from hkdnet_jax.common.paths import as_path


def read_split(path: Path | str) -> list[str]:
    """Reads the names in a split file, one per line; skips blank lines and # comments.

    Raises:
      UserError: the file cannot be read or names no pair.
    """
    try:
        text = as_path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Split file {path} cannot be read: {error}.") from error
    lines = (re.split(r"(?:^|\s)#", line)[0].strip() for line in text.splitlines())
    names = [line for line in lines if line]
    if not names:
        raise UserError(f"Split file {path} names no pair; write one name per line.")
    return names


def split_pairs(
    pairs: Sequence[StoredPair], train_split: str, val_split: str, val_fraction: float
) -> tuple[list[StoredPair], list[StoredPair]]:
    """Divides `pairs` into training and validation pairs, both in the given order.

    With both split files, each side is what its file names.  With one, the other side
    is the rest.  With none (empty strings), a hash of the stem decides, so a pair stays
    on its side when others are added or the folder is moved; about `val_fraction` of
    the pairs are for validation, and at least one of two or more pairs unless the
    fraction is 0.

    Args:
      pairs: the pairs to divide.
      train_split: path of the file that names the training pairs, or "".
      val_split: path of the file that names the validation pairs, or "".
      val_fraction: share of the pairs for validation, in [0, 1).

    Returns:
      The training pairs and the validation pairs.

    Raises:
      UserError: a split file cannot be read or names no pair, a missing one or an
        ambiguous one, both files name the same pair, no pair is left for training, or
        the fraction is not in [0, 1).
    """
    if train_split or val_split:
        train = _named(pairs, train_split) if train_split else None
        val = _named(pairs, val_split) if val_split else None
        if train is None:
            train = set(pairs) - val
        elif val is None:
            val = set(pairs) - train
        both = sorted(pair.name for pair in train & val)
        if both:
            raise UserError(
                f"{train_split} and {val_split} both name {listing(both)}; keep each "
                "in one of them."
            )
    else:
        val = _hashed(pairs, val_fraction)
        train = set(pairs) - val
    if not train:
        raise UserError(
            f"No pair is left for training after {val_split or 'the split'}; add pairs "
            "or name fewer for validation."
        )
    return [p for p in pairs if p in train], [p for p in pairs if p in val]


def _stem(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _named(pairs: Sequence[StoredPair], path: str) -> set[StoredPair]:
    """The pairs that split file `path` names, by full name or by stem."""
    by_name: dict[str, list[StoredPair]] = {}
    for pair in pairs:
        for key in {pair.name, _stem(pair.name)}:
            by_name.setdefault(key, []).append(pair)
    names = read_split(path)
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise UserError(
            f"Split file {path} names pairs that are not in the data folders (names "
            f"have no suffix): {listing(unknown)}."
        )
    vague = [name for name in names if len(by_name[name]) > 1]
    if vague:
        raise UserError(
            f"Split file {path} has stems that occur in several data folders; write "
            f"rootname/stem for them: {listing(vague)}."
        )
    return {by_name[name][0] for name in names}


def _hashed(pairs: Sequence[StoredPair], val_fraction: float) -> set[StoredPair]:
    """The pairs whose stems have a hash, as a number in [0, 1), below the fraction."""
    if not 0 <= val_fraction < 1:
        raise UserError(
            f"val_fraction is {val_fraction}; give a number that is at least 0 and "
            "below 1."
        )

    def score(pair: StoredPair) -> float:
        digest = hashlib.sha256(_stem(pair.name).encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48

    val = {pair for pair in pairs if score(pair) < val_fraction}
    if pairs and val_fraction > 0:
        # A few pairs may all fall on one side, but neither side may be empty; a single
        # pair is for training.
        ranked = sorted(pairs, key=lambda pair: (score(pair), pair.name))
        val = (val | {ranked[0]}) - {ranked[-1]}
    return val
