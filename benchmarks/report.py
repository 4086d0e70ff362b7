"""How long, how much memory and how large is the page of a long run?

    python benchmarks/report.py [--steps 1000] [--rows 1000] [--text 4000]

Plants a run's folder of so many steps, so many prompts a step in its ledger (each of 8 responses; 1,000 times 1,000
are a million rows of 650 bytes), and two recorded groups a step of 8 responses of `--text` characters and 1,000 tokens.
Then `ar3po report` in a process of its own, beside one that only reads the same rows (json.loads of every line): the
ratio is what the sums and the page cost.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from megatron_ar3po.file_digests import seal_row
from megatron_ar3po.run.folder_format import write_format

HERE = Path(__file__).resolve().parents[1]
LIMIT_S, LIMIT_GIB, LIMIT_MB = 20.0, 1.0, 15.0
READ = """
import json, sys
rows = 0
for line in open(sys.argv[1], "rb"):
    rows += json.loads(line)["step"] >= 0
"""


class Cost(NamedTuple):
    seconds: float
    gib: float


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=1000, help="prompts of a step")
    parser.add_argument("--text", type=int, default=4000, help="characters of a recorded response")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        plant(run, arguments.steps, arguments.rows, arguments.text)
        ledger = run / "ledger/dp00.jsonl"
        megabytes = ledger.stat().st_size / 1e6
        print(f"{arguments.steps * arguments.rows:,} rows of prompts, {megabytes:,.0f} MB")
        bare = measure([sys.executable, "-c", READ, str(ledger)])
        report = measure([sys.executable, "-m", "megatron_ar3po.cli", "report", str(run)])
        size = (run / "report.html").stat().st_size / 1e6
    print(f"bare read   {bare.seconds:6.1f} s of processor time   {bare.gib:5.2f} GiB")
    print(
        f"report      {report.seconds:6.1f} s of processor time   {report.gib:5.2f} GiB   {size:.1f} MB"
    )
    print(f"ratio       {report.seconds / bare.seconds:6.2f}")
    is_met = report.seconds <= LIMIT_S and report.gib <= LIMIT_GIB and size <= LIMIT_MB
    verdict = "met" if is_met else "MISSED"
    print(
        f"target      {LIMIT_S:6.1f} s, {LIMIT_GIB} GiB, {LIMIT_MB} MB: {verdict}, by processor time"
    )
    return 0


def measure(command: Sequence[str]) -> Cost:
    """Processor time, as other work on the machine does not lengthen it, and the largest memory of a child of a
    process of its own."""
    watcher = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode; "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(code, used.ru_utime + used.ru_stime, used.ru_maxrss)"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", watcher, *command],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    code, seconds, kib = done.stdout.split()
    assert code == "0", done.stderr[-2000:]
    print(f"  ({time.monotonic() - began:.1f} s by the clock)")
    return Cost(float(seconds), int(kib) / 2**20)


def plant(run: Path, steps: int, rows: int, characters: int) -> None:
    draw = random.Random(1)
    (run / "ledger").mkdir(parents=True)
    (run / "DONE").touch()
    write_format(run)
    (run / "resolved_config.yaml").write_text('{"algorithm": {"name": "ar3po"}}')
    with (run / "ledger/dp00.jsonl").open("wb") as ledger:
        for step in range(1, steps + 1):
            ledger.write(b"".join(ledger_rows(step, rows, draw)))
    with (run / "metrics.jsonl").open("w") as metrics:
        for step in range(steps + 1):
            metrics.write(json.dumps(metrics_row(step, steps, rows)) + "\n")
    with (run / "rollouts.jsonl").open("w") as rollouts:
        for step in range(1, steps + 1):
            for number in range(2):
                rollouts.write(json.dumps(recorded_row(step, number, characters, draw)) + "\n")


def ledger_rows(step: int, rows: int, draw: random.Random) -> Iterator[bytes]:
    """Every prompt is new: the dictionary of prompts is as large as it can be."""
    zeros = ("cancelled", "ungraded", "aborted", "unusable", "restored")
    apart = {name: 0 for zero in zeros for name in (zero, f"{zero}_tokens")}
    for position in range(rows):
        correct = draw.randrange(9)
        row = {
            "kind": "prompt", "step": step, "position": position, "prompt_id": f"{draw.getrandbits(128):032x}",
            "source": "planted", "policy_version": step - 1,
            "outcome": "all_wrong" if correct == 0 else "all_correct" if correct == 8 else "mixed",
            "stop_reason": "stages_done", "discarded": False, "stages": 2, "responses": 8, "correct": correct,
            "ungradable": 0, "prompt_tokens": 800, "cached_prompt_tokens": 700,
            "response_tokens": draw.randrange(800, 16000), "truncated": 0, **apart, "request_s": 12.5,
            "servers": ["dp0.s0"],
        }  # fmt: skip
        yield b"%s\n" % seal_row(row)


def metrics_row(step: int, steps: int, rows: int) -> dict[str, float]:
    row = {f"room/metric_{i}": 0.12345678 * i for i in range(110)}
    row |= {
        "step": step, "time/wall_s": 60.0, "time/step_s": 55.0, "time/rollout_s": 40.0, "time/train_s": 15.0,
        "rollout/responses_total": 8 * rows * step, "rollout/tokens_total": 8000 * rows * step,
        "rollout/prompts": rows, "rollout/stage_1/responses": 8 * rows, "reward/correct_frac": 0.5,
        "response/length_tokens": 1000.0, "reuse/borrowed_groups": 2, "reuse/hit_frac": 0.5, "reuse/age_steps": 4.0,
        "actor/entropy": 0.5, "actor/grad_norm": 1.0, "mismatch/logprob_abs_mean": 0.01,
    }  # fmt: skip
    if step % 10 == 0:
        row |= {"eval/pass_at_1": 0.2 + 0.5 * step / steps, "eval/prompts": 500}
    return row


def recorded_row(step: int, number: int, characters: int, draw: random.Random) -> dict[str, object]:
    tokens = 1000
    response = {
        "text": "x + 1 = 2 and so on. " * (characters // 21), "status": "incorrect", "reason": "planted",
        "reward": 0.0, "origin": "fresh", "stage": 1, "tokens": tokens, "policy_version": step - 1,
        "advantage": -0.5, "logprobs": [round(-draw.expovariate(2), 3) for _ in range(tokens)],
        "token_lengths": [characters // tokens] * tokens,
    }  # fmt: skip
    return {
        "step": step, "prompt": "A question. " * 20, "ground_truth": "2", "stages": 1,
        "responses": [response] * 8, "prompt_id": f"{step}-{number}", "source": "planted",
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
