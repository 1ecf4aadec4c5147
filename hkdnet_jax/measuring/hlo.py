"""Reads the collectives of a compiled program from its text (HLO)."""

import math
import re
from collections.abc import Iterator

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
_BITS = {"pred": 8, "f8e4m3fn": 8, "f8e5m2": 8, "bf16": 16, "c64": 64, "c128": 128}
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*-> .*\{$")
_WHILE = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_CALL = re.compile(r"(?:to_apply|calls)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"(?:branch_computations=\{([^}]*)\})")
# `-start` is the asynchronous form; its `-done` is not counted again.
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(COLLECTIVES)})(-start)?\(")
_ARRAY = re.compile(r"([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")


def collectives(text: str) -> list[dict[str, int | str]]:
    """Counts the collectives that one device runs, including each turn of a loop.

    Args:
      text: `compiled.as_text()`.

    Returns:
      One dict for each kind that occurs: `kind`, `count` (number of arrays, several of
      which the compiler may combine in one operation) and `bytes` (of their results).
    """
    computations = _computations(text)
    totals: dict[str, list[int]] = {}
    for line, times in _executed(computations, "ENTRY"):
        match = _COLLECTIVE.search(line)
        if match:
            result, kind, start = match.groups()
            sizes = _sizes(result)
            if start and len(sizes) > 1 and kind != "all-reduce":
                sizes = sizes[len(sizes) // 2 :]  # (operands, results)
            total = totals.setdefault(kind, [0, 0])
            total[0] += times * len(sizes)
            total[1] += times * sum(sizes)
    return [
        {"kind": kind, "count": count, "bytes": size}
        for kind, (count, size) in sorted(totals.items())
    ]


def _computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation by name; the main one is also named ENTRY."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        match = _COMPUTATION.match(line)
        if match:
            lines = found[match.group(2)] = []
            if match.group(1):
                found["ENTRY"] = lines
        else:
            lines.append(line.strip())
    return found


def _executed(
    computations: dict[str, list[str]], name: str, times: int = 1
) -> Iterator[tuple[str, int]]:
    """Yields every instruction that `name` runs, and how often it runs."""
    for line in computations[name]:
        yield line, times
        loop = _WHILE.search(line)
        if loop:
            condition, body = loop.groups()
            turns = times * _turns(computations[condition])
            yield from _executed(computations, body, turns)
            continue
        called = _CALL.findall(line) if _COLLECTIVE.search(line) is None else []
        for group in _BRANCHES.findall(line):
            called += [part.strip().lstrip("%") for part in group.split(",")]
        for inner in called:
            if inner in computations:
                yield from _executed(computations, inner, times)


def _turns(condition: list[str]) -> int:
    """Number of turns of a loop that counts up to a constant; 1 for other loops."""
    limits = re.findall(r"s32\[\].* constant\((\d+)\)", "\n".join(condition))
    return int(limits[0]) if len(limits) == 1 else 1


def _sizes(result: str) -> list[int]:
    """The size in bytes of each array in the text of an instruction's type."""
    sizes = []
    for dtype, shape in _ARRAY.findall(result):
        bits = _BITS.get(dtype) or int(re.sub(r"\D", "", dtype))
        sizes.append(bits // 8 * math.prod(int(n) for n in shape.split(",") if n))
    return sizes
