"""Configuration keys: the type, default, limits and meaning of each, stated once.

A group of keys is a frozen dataclass whose fields are made by `key`. Everything that
needs to know about a key reads it from there: the default configuration, its check, the
list that `--help` prints, and the check of a model file.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

Group = TypeVar("Group")


@dataclasses.dataclass(frozen=True)
class Limits:
    """The values that a key may have, and their meaning.

    Attributes:
      meaning: one sentence or phrase, with the unit.
      choices: the only allowed values; empty if any value of the type is allowed.
      at_least: the smallest allowed number.
      above: a bound that a number must exceed.
      below: a bound that a number must stay under.
    """

    meaning: str
    choices: tuple[Any, ...] = ()
    at_least: float | None = None
    above: float | None = None
    below: float | None = None

    def problem(self, value: Any) -> str | None:
        """Returns what `value` must be instead, as a clause; None if it is fine."""
        if self.choices and value not in self.choices:
            return f"it must be one of {', '.join(map(str, self.choices))}"
        if isinstance(value, float) and not math.isfinite(value):
            return "it must be a finite number"
        if self.at_least is not None and value < self.at_least:
            return f"it must be at least {self.at_least:g}"
        if self.above is not None and value <= self.above:
            return f"it must be above {self.above:g}"
        if self.below is not None and value >= self.below:
            return f"it must be below {self.below:g}"
        return None

    def range(self) -> str:
        """Returns the limits in words, such as `at least 1, below 5`, or ''."""
        parts = [" | ".join(map(str, self.choices))] if self.choices else []
        for name in ("at_least", "above", "below"):
            limit = getattr(self, name)
            if limit is not None:
                parts.append(f"{name.replace('_', ' ')} {limit:g}")
        return ", ".join(parts)


def key(default: Any, meaning: str, **limits: Any) -> Any:
    """Makes a dataclass field that is a configuration key.

    Args:
      default: the default value, whose type is the key's.
      meaning: see `Limits`.
      **limits: the other attributes of `Limits`.
    """
    metadata = {"limits": Limits(meaning, **limits)}
    return dataclasses.field(default=default, metadata=metadata)


def limits_of(group: Any) -> dict[str, Limits]:
    """Returns the limits of a group's own keys by name, without nested groups."""
    fields = {field.name: field.metadata for field in dataclasses.fields(group)}
    return {name: m["limits"] for name, m in fields.items() if "limits" in m}


def problems(group: Any) -> Iterator[tuple[str, Any, str]]:
    """Yields each key of a group that breaks its limits: name, value, what it must be.

    A value whose type is not that of the default breaks the limits.  A key whose
    default is None may be None, and its type is not checked.
    """
    for field in dataclasses.fields(group):
        if "limits" not in field.metadata:
            continue
        value, limits = getattr(group, field.name), field.metadata["limits"]
        if value is None and field.default is None:
            continue
        wanted = type(field.default)
        if field.default is not None and type(value) is not wanted:
            yield field.name, value, f"it must be of type {wanted.__name__}"
        elif (remedy := limits.problem(value)) is not None:
            yield field.name, value, remedy


def from_mapping(group: type[Group], values: Mapping[str, Any]) -> Group:
    """Makes a group from a mapping such as JSON gives.

    Where the default is a tuple, a list becomes one; where it is a float, 1 becomes
    1.0.  Keys that the mapping lacks keep their defaults.

    Raises:
      ValueError: a key is unknown, or the group's own check fails.
    """
    fields = {field.name: field for field in dataclasses.fields(group)}
    unknown = [name for name in values if name not in fields]
    if unknown:
        raise ValueError(f"there is no key {unknown[0]!r}")
    converted = {}
    for name, value in values.items():
        default = fields[name].default
        if isinstance(default, tuple) and isinstance(value, list):
            value = tuple(value)
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        converted[name] = value
    return group(**converted)
