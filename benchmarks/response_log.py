"""What the log of finished responses costs, as a share of a step.

    python benchmarks/response_log.py [--steps N] [--responses N]

First the real trainer on examples/tiny_sum, whose steps are as short as steps can be: for each of its steps as many
responses, of the same mean length, are appended to a second log on the same disk, and the seconds of that are set
against the seconds of the step. Then responses of other lengths: what appending one costs, what a row takes, what
reading it again costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.rollout.response_log import ResponseLogFolder
from megatron_ar3po.rollout.response_rows import LoggedResponse, Origin
from megatron_ar3po.types import Response, ScoredResponse, Verdict

ROOT = Path(__file__).parents[1]
LENGTHS = (4, 64, 1024, 4096)
TARGET_FRAC = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="of the trainer")
    parser.add_argument("--responses", type=int, default=2000, help="of each length")
    arguments = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.0f}")
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        share_of_a_step(Path(folder), arguments.steps)
        for length in LENGTHS:
            cost_of_length(Path(folder) / f"{length}_tokens", length, arguments.responses)


def share_of_a_step(folder: Path, num_steps: int) -> None:
    run = folder / "run"
    words = [f"run.dir={run}", f"run.num_steps={num_steps}", "checkpoint.every_steps=0"]
    words += ["evaluation.every_steps=0", "run.progress=plain"]
    command = [sys.executable, "-m", "megatron_ar3po.train", "examples/tiny_sum/config.yaml"]
    subprocess.run(
        [*command, *words], cwd=ROOT, check=True, capture_output=True, env={**os.environ}
    )
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["step"] > 1]  # the first one warms up
    log, numbers = open_log(folder / "again"), np.random.default_rng(0)
    shares = []
    for row in rows:
        count = int(row["rollout/responses_generated"])
        length = round(row["rollout/tokens_generated"] / count)
        logged = [make_logged(index, length, numbers) for index in range(count)]
        shares.append(append_all(log, row["step"], logged) / row["time/step_s"])
    log.close()
    step_s = statistics.median(row["time/step_s"] for row in rows)
    count = statistics.median(row["rollout/responses_generated"] for row in rows)
    print(
        f"tiny_sum, {len(rows)} steps of {step_s:.2f} s and {count:.0f} responses: {statistics.median(shares):.2%} of "
        f"a step (median; {min(shares):.2%} to {max(shares):.2%}; target <= {TARGET_FRAC:.0%})"
    )


def cost_of_length(folder: Path, length: int, num_responses: int) -> None:
    log, numbers = open_log(folder), np.random.default_rng(0)
    logged = [make_logged(index, length, numbers) for index in range(num_responses)]
    seconds = append_all(log, 1, logged)
    started = time.perf_counter()
    log.close()
    close_s = time.perf_counter() - started
    (path,) = folder.glob("*.jsonl")
    num_bytes = path.stat().st_size
    started = time.perf_counter()
    open_log(folder).open_step(1)
    read_s = time.perf_counter() - started
    append_us, read_us = 1e6 * seconds / num_responses, 1e6 * read_s / num_responses
    print(
        f"{length} tokens: {append_us:.0f} us to append one, {num_bytes / num_responses:.0f} bytes, {read_us:.0f} us "
        f"to read it again; {num_responses} of them to the disk in {close_s:.2f} s"
    )


def append_all(log: ResponseLogFolder, step: int, logged: Sequence[LoggedResponse]) -> float:
    """Seconds in which a rollout waits for them."""

    async def append() -> None:
        for row in logged:
            await log.append(row.scored)

    log.open_step(step)
    started = time.perf_counter()
    asyncio.run(append())
    return time.perf_counter() - started


def open_log(folder: Path) -> ResponseLogFolder:
    return ResponseLogFolder(folder, ParallelLayout(), settings="0" * 16, grading="0" * 16)


def make_logged(index: int, length: int, numbers: np.random.Generator) -> LoggedResponse:
    response = Response(
        response_id=f"s1.p{index // 8}.1.{index % 8}",
        prompt_id=f"{index // 8:032x}",
        token_ids=numbers.integers(0, 150_000, length).astype(np.int32),
        logprobs=-numbers.random(length, dtype=np.float32),
        finish_reason="stop",
        policy_version=0,
        step=1,
        stage=1,
        index=index % 8,
        seed=int(numbers.integers(0, 2**31)),
        server="dp0.s0",
        elapsed_s=1.5,
    )
    verdict = Verdict(
        reward=0.0, status="incorrect", extracted="41", reason="41 is not the ground truth 42"
    )
    scored = ScoredResponse(response=response, verdict=verdict)
    return LoggedResponse(origin=Origin("", "", ""), scored=scored)


if __name__ == "__main__":
    main()
