"""Numbers that know how to reduce themselves: `Mean`, `Sum`, `Max`, `Ratio`, `StandardError`, and `Records`, several of
them by name.

Whoever measures returns `Records` under the metrics' final names (`room/what_unit`); the trainer adds them up, and
they are reduced once per step over all replicas. A mean over replicas with unequal tokens is right by construction,
since it carries its weight. What every replica knows alike (a gradient norm, the size of a publish) is a `Mean` or a
`Max`, never a `Sum`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean(3, weight=2) and Mean(6, weight=1) make Mean(4, weight=3)."""

    value: float
    weight: float = 1.0

    def merge(self, other: Mean) -> Mean:
        weight = self.weight + other.weight
        if weight == 0:
            return self
        return Mean((self.value * self.weight + other.value * other.weight) / weight, weight)


@dataclass(frozen=True, slots=True)
class Sum:
    value: float

    def merge(self, other: Sum) -> Sum:
        return Sum(self.value + other.value)


@dataclass(frozen=True, slots=True)
class Max:
    value: float

    def merge(self, other: Max) -> Max:
        return Max(max(self.value, other.value))


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of two sums: Ratio(8, 0) and Ratio(16, 2) make Ratio(24, 2), which is 12. Not a number where the whole is 0."""

    part: float
    whole: float

    @property
    def value(self) -> float:
        return self.part / self.whole if self.whole else math.nan

    def merge(self, other: Ratio) -> Ratio:
        return Ratio(self.part + other.part, self.whole + other.whole)


@dataclass(frozen=True, slots=True)
class StandardError:
    """Of a mean over `count` values, from their spread: `squares` is the sum of (value - mean)**2. Not a number below
    two values.

    >>> StandardError.of([0.0, 1.0, 1.0, 0.0]).value == (1 / 3 / 4) ** 0.5
    True
    """

    count: int
    mean: float
    squares: float

    @classmethod
    def of(cls, values: Sequence[float]) -> StandardError:
        mean = sum(values) / len(values) if values else 0.0
        return cls(len(values), mean, sum((value - mean) ** 2 for value in values))

    @property
    def value(self) -> float:
        if self.count < 2:
            return math.nan
        return math.sqrt(self.squares / (self.count - 1) / self.count)

    def merge(self, other: StandardError) -> StandardError:
        """As if it had been taken of all values at once (Chan et al. 1979, the pairwise update of a variance)."""
        count = self.count + other.count
        if count == 0:
            return self
        apart = other.mean - self.mean
        return StandardError(
            count,
            self.mean + apart * other.count / count,
            self.squares + other.squares + apart**2 * self.count * other.count / count,
        )


Record = Mean | Sum | Max | Ratio | StandardError


class Records(dict[str, Record]):
    """
    >>> records = Records({"reuse/loans": Sum(2)})
    >>> records.add("reuse/loans", Sum(1))
    >>> records.add_all({"actor/loss": Mean(0.5)})
    >>> records
    {'reuse/loans': Sum(value=3), 'actor/loss': Mean(value=0.5, weight=1.0)}
    """

    def add(self, name: str, record: Record) -> None:
        """Raises TypeError when `name` is there as another kind of record."""
        there = self.get(name)
        if there is None:
            self[name] = record
        elif type(there) is type(record):
            self[name] = there.merge(record)  # type: ignore[arg-type]
        else:
            raise TypeError(
                f"metric {name} was recorded as {type(there).__name__} and as {type(record).__name__}."
            )

    def add_all(self, *many: Mapping[str, Record]) -> None:
        for records in many:
            for name, record in records.items():
                self.add(name, record)


def merge_records(*many: Mapping[str, Record]) -> Records:
    """
    >>> merge_records({"a": Max(1)}, {"a": Max(3)})
    {'a': Max(value=3)}
    """
    merged = Records()
    merged.add_all(*many)
    return merged
