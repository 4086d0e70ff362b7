#!/usr/bin/env python3
"""Are two runs the same in the sense of `run.deterministic=true`?

    .venv/bin/python tools/compare_runs.py runs/whole runs/killed_and_resumed

Compares tokens, rewards and seeds of the steps that both dumped (`debug.dump_steps`), the ledger's rows of what was
sampled, the weights and the optimizer's state of the last checkpoint, and every metric at every step. Left out, since
they are seconds, bytes, or the story of one process: time/*, memory/*, mismatch/*, the seconds in weight_sync/*,
reuse/store_bytes; in the ledger log-probs, seconds, the prefix cache, which server answered, rows of servers, and what
a resume did again. Exit code 0: equal; 1: not, with the first differences; 2: a folder is no run.

`tools/compare_metrics.py` compares metrics alone, room by room.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_ar3po.data.dump import load_groups
from megatron_ar3po.observability.row_file import read_rows
from megatron_ar3po.rollout.ledger_file import rows_of_run
from tools.compare_metrics import differences

UNLIKE = re.compile(
    r"time/|memory/|mismatch/|weight_sync/.*_s$|reuse/store_bytes$"
    r"|rollout/cost/(redone|restored)|rollout/(responses|tokens)_total$"
)
_SAMPLED = ("prompt", "evaluation", "scoring")  # kinds of rows that say what was sampled
_OF_ONE_PROCESS = re.compile(
    r"servers$|cached_prompt_tokens$|request_s$|.*logprob|restored|redone|abandoned$|xxh3$"
)
_SHOWN = 20


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, help="a run's folder")
    parser.add_argument("after", type=Path, help="another one")
    arguments = parser.parse_args(argv)
    try:
        found = list(compare_runs(arguments.before, arguments.after))
    except ValueError as error:
        print(f"compare_runs: error: {error}", file=sys.stderr)
        return 2
    for line in found[:_SHOWN]:
        print(line)
    if len(found) > _SHOWN:
        print(f"... and {len(found) - _SHOWN} more")
    print(f"{len(found)} differ" if found else "equal")
    return 1 if found else 0


def compare_runs(before: Path, after: Path) -> Iterator[str]:
    """One line for each difference. Raises ValueError for a folder that holds no run."""
    for folder in (before, after):
        if not (folder / "metrics.jsonl").is_file():
            raise ValueError(f"{folder} holds no metrics.jsonl; name a run's folder, as runs/NAME.")
    yield from differences(metrics_of(before), metrics_of(after))
    yield from _differences_of("ledger", ledger_of(before), ledger_of(after))
    yield from _differences_of("response", responses_of(before), responses_of(after))
    yield from _differences_of("file", files_of(before), files_of(after))


def metrics_of(folder: Path) -> dict[int, dict[str, Any]]:
    """Raises ValueError where a step has two rows."""
    rows = read_rows(folder / "metrics.jsonl")
    by_step = {row["step"]: {n: v for n, v in row.items() if not UNLIKE.match(n)} for row in rows}
    if len(by_step) != len(rows):
        raise ValueError(
            f"{folder / 'metrics.jsonl'} has {len(rows)} rows for {len(by_step)} steps."
        )
    return by_step


def ledger_of(folder: Path) -> dict[str, Any]:
    """The rows that stand, by what they are of. Rows of one name are numbered."""
    found: dict[str, Any] = {}
    for row in rows_of_run(folder / "ledger"):
        if row["kind"] not in _SAMPLED or row.get("abandoned"):
            continue
        name = f"{row['kind']} of step {row.get('step')} position {row.get('position')}"
        while name in found:
            name += " again"
        found[name] = {n: v for n, v in row.items() if not _OF_ONE_PROCESS.match(n)}
    return found


def responses_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted((folder / "dumps").glob("step_*.pt")):
        for group in load_groups(path):
            for scored in group.responses:
                response = scored.response
                name = f"{response.response_id} in position {group.position} of {path.name}"
                found[name] = {
                    "tokens": response.token_ids.tolist(),
                    "reward": scored.reward,
                    "status": scored.verdict.status,
                    "origin": scored.origin,
                    "seed": response.seed,
                    "finish_reason": response.finish_reason,
                    "policy_version": response.policy_version,
                }
    return found


def files_of(folder: Path) -> dict[str, Any]:
    """Checksums of what the last checkpoint holds of weights and optimizer."""
    marker = folder / "checkpoints/latest"
    if not marker.is_file():
        return {}
    checkpoint = folder / "checkpoints" / marker.read_text().strip()
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    tensors = {name: digest for name, digest in files.items() if name.endswith(".distcp")}
    return {"checkpoint": checkpoint.name, **tensors}


def _differences_of(
    what: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[str]:
    for name in sorted({*before, *after}):
        old, new = before.get(name, "absent"), after.get(name, "absent")
        if old != new:
            yield f"{what} {name}: was {old}, is {new}"


if __name__ == "__main__":
    sys.exit(main())
