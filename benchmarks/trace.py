"""What keeping the events of a step for `ar3po trace` costs, as a share of the step.

    python benchmarks/trace.py [--run RUN] [--rounds N]

The steps are those of benchmarks/timeline.py, as short as steps can be. For each of them as many spans, requests and
verdicts are taken down once more, with nothing inside them, with and without their events kept and written; the
difference, in seconds of processor time, is set against the seconds of the step. Then what one response costs in a
step of many.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from timeline import ROOT, SPANS_OF_A_STEP, train

from megatron_ar3po.observability.row_file import read_rows
from megatron_ar3po.observability.step_events import EventRecorder
from megatron_ar3po.observability.timeline import Timeline

TARGET_FRAC = 0.01
MANY = 8192  # responses: 512 prompts, 16 each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="of which the steps are taken")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.0f}")
    with tempfile.TemporaryDirectory(dir=ROOT) as name:
        folder = Path(name)
        run = arguments.run or train(folder / "run")
        rows = [row for row in read_rows(run / "metrics.jsonl") if row["step"] > 1]
        shares = [
            added_s(folder, int(row["rollout/responses_generated"]), arguments.rounds)
            / row["time/step_s"]
            for row in rows
        ]
        step_s = statistics.median(row["time/step_s"] for row in rows)
        print(
            f"{len(rows)} steps of {step_s:.2f} s: {statistics.median(shares):.3%} of a step (median; "
            f"{min(shares):.3%} to {max(shares):.3%}; target <= {TARGET_FRAC:.0%})"
        )
        many = added_s(folder, MANY, arguments.rounds)
        written = sum(path.stat().st_size for path in (folder / "trace").iterdir())
        print(
            f"a step of {MANY} responses: {1e3 * many:.0f} ms, {1e6 * many / MANY:.1f} us and "
            f"{written / MANY:.0f} bytes a response"
        )


def added_s(folder: Path, num_responses: int, rounds: int) -> float:
    """Pairs, one after the other: a busy machine is busy for both."""
    pairs = [
        cost_s(folder / "trace", num_responses, last_steps=1)
        - cost_s(folder / "trace", num_responses, last_steps=0)
        for _ in range(rounds)
    ]
    return statistics.median(pairs)


def cost_s(folder: Path, num_responses: int, *, last_steps: int) -> float:
    timeline = Timeline()
    recorder = EventRecorder(folder, timeline, rank=0, last_steps=last_steps)
    started = time.process_time()
    for _ in range(SPANS_OF_A_STEP):
        with timeline.span("step"):
            pass
    with timeline.sampling():
        for number in range(num_responses):
            name = f"s12.p{number // 16}.1.{number % 16}"
            with timeline.during("slots"):
                pass
            with timeline.during("http", name):
                pass
            timeline.record_service(0.01, name, "dp0.s0")
            with timeline.during("verifier", name):
                pass
    timeline.take()
    recorder.write(1)
    return time.process_time() - started


if __name__ == "__main__":
    main()
