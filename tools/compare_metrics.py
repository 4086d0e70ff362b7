#!/usr/bin/env python3
"""Are two runs the same, step by step? For a change that should not alter a number.

    make train RUN_NAME=before ; git checkout my-branch ; make train RUN_NAME=after
    .venv/bin/python tools/compare_metrics.py runs/before runs/after

Compares every metric of the named rooms at every step, as written (8 decimals). Two runs of one commit agree, but for
what rests on the servers' log-probs, whose last digits depend on what is computed together, and for how SQLite lays out
its pages: `--except` leaves metrics out, by default these three. Exit code 0: equal; 1: not, with the first
differences; 2: a folder is no run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_ar3po.observability.row_file import read_rows

ROOMS = ("eval", "rollout", "reuse", "actor")
UNSTABLE = ("reuse/store_bytes", "reuse/logprob_drift_mean", "reuse/logprob_drift_max")
_SHOWN = 20


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, help="a run's folder")
    parser.add_argument("after", type=Path, help="another one")
    parser.add_argument(
        "--rooms", nargs="+", default=list(ROOMS), metavar="ROOM", help="default: %(default)s"
    )
    parser.add_argument(
        "--steps", type=int, default=None, help="only up to this step (default: all of both)"
    )
    parser.add_argument(
        "--except",
        dest="left_out",
        nargs="*",
        default=list(UNSTABLE),
        metavar="METRIC",
        help="not compared (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    try:
        before, after = (
            rows_of(folder, arguments.rooms, arguments.left_out, arguments.steps)
            for folder in (arguments.before, arguments.after)
        )
    except ValueError as error:
        print(f"compare_metrics: error: {error}", file=sys.stderr)
        return 2
    found = list(differences(before, after))
    for line in found[:_SHOWN]:
        print(line)
    if len(found) > _SHOWN:
        print(f"... and {len(found) - _SHOWN} more")
    num_values = sum(len(row) for row in before.values())
    steps = f"{len(before)} rows, {num_values} values of {', '.join(arguments.rooms)}"
    print(f"{steps}: {len(found)} differ" if found else f"{steps}: equal")
    return 1 if found else 0


def rows_of(
    folder: Path, rooms: Sequence[str], left_out: Sequence[str], last_step: int | None = None
) -> dict[int, dict[str, Any]]:
    """{step: {metric: value}} of these rooms. Raises ValueError for a folder without metrics."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{folder} holds no metrics.jsonl; name a run's folder, as runs/NAME.")
    return {
        row["step"]: {
            name: value
            for name, value in row.items()
            if name.split("/")[0] in rooms and name not in left_out
        }
        for row in read_rows(path)
        if last_step is None or row["step"] <= last_step
    }


def differences(
    before: Mapping[int, Mapping[str, Any]], after: Mapping[int, Mapping[str, Any]]
) -> Iterator[str]:
    """One line for each value that one run has and the other has not, or has otherwise."""
    for step in sorted({*before, *after}):
        here, there = before.get(step, {}), after.get(step, {})
        for name in sorted({*here, *there}):
            old, new = here.get(name, "absent"), there.get(name, "absent")
            if old != new:
                yield f"step {step}: {name} was {old}, is {new}"


if __name__ == "__main__":
    sys.exit(main())
