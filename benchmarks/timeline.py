"""What the time line costs, as a share of a step: its spans, and who is under way at each moment of the sampling.

    python benchmarks/timeline.py [--run RUN] [--rounds N]

First the real trainer on examples/tiny_sum, whose steps are as short as steps can be (or RUN, a run's folder that is
there already): for each of its steps as many spans and as many moments are taken down once more, with nothing inside
them, and the seconds of that are set against the seconds of the step. Then what one span, and one response, costs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from megatron_ar3po.observability.row_file import read_rows
from megatron_ar3po.observability.time_split import split_of
from megatron_ar3po.observability.timeline import Timeline

ROOT = Path(__file__).parents[1]
TARGET_FRAC = 0.005
SPANS_OF_A_STEP = 24  # more than a step has


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="of which the steps are taken")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.0f}")
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        run = arguments.run or train(Path(folder) / "run")
        rows = read_rows(run / "metrics.jsonl")
    report_shares([row for row in rows if row["step"] > 1], arguments.rounds)
    split = split_of(rows)
    assert split is not None, "a run of this version"
    print(f"unaccounted: {split.unaccounted_of_steps:.2%} of the steps (target <= 2%)")
    spans = statistics.median(cost_s(1000, 0) for _ in range(arguments.rounds)) / 1000
    responses = statistics.median(cost_s(0, 1000) for _ in range(arguments.rounds)) / 1000
    print(f"a span {1e6 * spans:.1f} us, a response {1e6 * responses:.1f} us")


def train(run: Path) -> Path:
    words = [f"run.dir={run}", "run.num_steps=20", "run.progress=plain"]
    words += ["checkpoint.every_steps=0", "evaluation.every_steps=0"]
    command = [sys.executable, "-m", "megatron_ar3po.train", "examples/tiny_sum/config.yaml"]
    subprocess.run([*command, *words], cwd=ROOT, check=True, capture_output=True)
    return run


def report_shares(rows: list[dict[str, Any]], rounds: int) -> None:
    shares = []
    for row in rows:
        responses = int(row["rollout/responses_generated"])
        cost = statistics.median(cost_s(SPANS_OF_A_STEP, responses) for _ in range(rounds))
        shares.append(cost / row["time/step_s"])
    step_s = statistics.median(row["time/step_s"] for row in rows)
    print(
        f"tiny_sum, {len(rows)} steps of {step_s:.2f} s: {statistics.median(shares):.3%} of a step (median; "
        f"{min(shares):.3%} to {max(shares):.3%}; target <= {TARGET_FRAC:.1%})"
    )


def cost_s(num_spans: int, num_responses: int) -> float:
    """Seconds that a step waits for its time line."""
    timeline = Timeline()
    started = time.perf_counter()
    for _ in range(num_spans):
        with timeline.span("step"):
            pass
    with timeline.sampling():
        for _ in range(num_responses):
            with timeline.during("slots"):
                pass
            with timeline.during("http"):
                pass
            timeline.record_service(0.01)
            with timeline.during("verifier"):
                pass
    timeline.take()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
