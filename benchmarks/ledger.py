"""What the accounting costs, as a share of a step: the ledger's rows, on the disk, and the metrics that are their sums.

    python benchmarks/ledger.py [--steps N]

First the real trainer on examples/tiny_sum, whose steps are as short as steps can be: for each of its steps the intent,
as many rows of prompts, and the records are made once more in a second ledger on the same disk, and the seconds of that
are set against the seconds of the step. Then larger steps. What it takes to ask the servers for their counters is not
among it: one request each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from megatron_ar3po.rollout.ledger import Ledger
from megatron_ar3po.rollout.step_sampler import record_cost
from megatron_ar3po.types import (
    CollectedStep,
    Prompt,
    Response,
    ResponseGroup,
    ScoredResponse,
    StepPrompt,
    Verdict,
)

ROOT = Path(__file__).parents[1]
SIZES = ((16, 6), (128, 8), (512, 16))  # prompts, responses of each
TARGET_FRAC = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="of the trainer")
    arguments = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.0f}")
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        share_of_a_step(Path(folder), arguments.steps)
        for prompts, responses in SIZES:
            ledger = Ledger(Path(folder) / f"{prompts}.jsonl")
            seconds = [account(ledger, step, prompts, prompts * responses) for step in range(20)]
            milliseconds = 1000 * statistics.median(seconds)
            print(f"{prompts} prompts, {responses} responses each: {milliseconds:.1f} ms a step")


def share_of_a_step(folder: Path, num_steps: int) -> None:
    run = folder / "run"
    words = [f"run.dir={run}", f"run.num_steps={num_steps}", "checkpoint.every_steps=0"]
    words += ["evaluation.every_steps=0", "run.progress=plain"]
    command = [sys.executable, "-m", "megatron_ar3po.train", "examples/tiny_sum/config.yaml"]
    subprocess.run([*command, *words], cwd=ROOT, check=True, capture_output=True)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["step"] > 1]  # the first one warms up
    ledger = Ledger(folder / "again.jsonl")
    shares = [
        account(
            ledger,
            row["step"],
            int(row["rollout/prompts"]),
            int(row["rollout/responses_generated"]),
        )
        / row["time/step_s"]
        for row in rows
    ]
    step_s = statistics.median(row["time/step_s"] for row in rows)
    print(
        f"tiny_sum, {len(rows)} steps of {step_s:.2f} s: {statistics.median(shares):.2%} of a step (median; "
        f"{min(shares):.2%} to {max(shares):.2%}; target <= {TARGET_FRAC:.0%})"
    )


def account(ledger: Ledger, step: int, num_prompts: int, num_responses: int) -> float:
    """Seconds that a step waits."""
    groups = tuple(make_group(i, num_responses // num_prompts) for i in range(num_prompts))
    prompts = [StepPrompt(position=group.position, prompt=group.prompt) for group in groups]
    started = time.perf_counter()
    ledger.open_step(prompts, step=step, policy_version=0)
    record_cost(CollectedStep(groups=groups), ledger, step=step, policy_version=0)
    ledger.reconcile(step=step)
    return time.perf_counter() - started


def make_group(position: int, num_responses: int) -> ResponseGroup:
    prompt = Prompt(prompt_id=f"{position:032x}", token_ids=(1, 2, 3), ground_truth="42")
    tokens, logprobs = np.zeros(64, np.int32), np.zeros(64, np.float32)
    responses = (
        Response(
            response_id=f"s1.p{position}.1.{index}",
            prompt_id=prompt.prompt_id,
            token_ids=tokens,
            logprobs=logprobs,
            finish_reason="stop",
            policy_version=0,
            step=1,
            stage=1,
            index=index,
            server="dp0.s0",
        )
        for index in range(num_responses)
    )
    verdict = Verdict(reward=0.0, status="incorrect")
    scored = tuple(ScoredResponse(response=r, verdict=verdict) for r in responses)
    return ResponseGroup(position=position, prompt=prompt, responses=scored)


if __name__ == "__main__":
    main()
