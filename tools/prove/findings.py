"""What a check finds, and the table that all of them make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["pass", "fail", "not available"]


@dataclass(frozen=True)
class Finding:
    """`figure`: one phrase for the table. `facts`: the numbers behind it. `problem`: what is not as it should be; empty
    where all is."""

    figure: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    question: str
    status: Status
    figure: str
    seconds: float
    facts: Mapping[str, Any] = field(default_factory=dict)


def row_of(name: str, question: str, finding: Finding, seconds: float) -> Row:
    figure = f"{finding.figure}; {finding.problem}" if finding.problem else finding.figure
    status: Status = "fail" if finding.problem else "pass"
    return Row(name, question, status, figure, seconds, finding.facts)


def as_text(rows: Sequence[Row]) -> str:
    width = max((len(row.name) for row in rows), default=0)
    return "\n".join(
        f"{row.name:<{width}}  {row.status:<13} {row.seconds:4.0f} s  {row.figure}" for row in rows
    )


def as_markdown(rows: Sequence[Row], about: Mapping[str, str]) -> str:
    """Like the files of benchmarks/results: how it was made, then the table."""
    lines = ["| field | value |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in about.items()]
    lines += ["", "| check | | result | figure | seconds |", "|---|---|---|---|---|"]
    lines += [
        f"| `{row.name}` | {_cell(row.question)} | {row.status} | {_cell(row.figure)} | {row.seconds:.0f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def as_json(rows: Sequence[Row], about: Mapping[str, str]) -> dict[str, Any]:
    return {"about": dict(about), "checks": [asdict(row) for row in rows]}


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
