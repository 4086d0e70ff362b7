"""What the history of a run's prompts costs: memory of a prompt, and time of a step, at a million prompts.

    python benchmarks/history.py [--prompts 1000000] [--run runs/NAME]

Every prompt has been seen. A step asks for each of its prompts what the controller asks: the record, the rule's next
stage (`difficulty`, which asks most), the order; then it learns. `--run`: the share of a step that this is, with the
prompts a step and the median seconds a step of that run. Last, what a resume takes to learn as many rows again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from megatron_ar3po.algorithm.history import PromptHistory
from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.prompt_record import PromptOutcome
from megatron_ar3po.rollout.stage_plans import make_stage_rule
from megatron_ar3po.types import Prompt

STEP = 256  # prompts of a measured step


def prompt_id(number: int) -> str:
    return sha256(str(number).encode()).hexdigest()[:32]


def outcome(number: int) -> PromptOutcome:
    return PromptOutcome(
        prompt_id=prompt_id(number), source="", responses=1, correct=number % 2, tokens=100
    )


def fill_history(num_prompts: int) -> PromptHistory:
    """Learns in steps of 256, as a run does."""
    history = PromptHistory(half_life=6.0, num_prompts=num_prompts)
    for first in range(0, num_prompts, STEP):
        last = min(first + STEP, num_prompts)
        history.learn(first // STEP + 1, [outcome(number) for number in range(first, last)])
    return history


def median_s(work: Callable[[], object], rounds: int = 30) -> float:
    taken = []
    for _ in range(rounds):
        started = time.process_time()  # one thread, on a machine that others use
        work()
        taken.append(time.process_time() - started)
    return statistics.median(taken)


def step_of(history: PromptHistory, num_prompts: int) -> Callable[[], object]:
    rule = make_stage_rule(RolloutConfig(stage_rule="difficulty"), history)
    numbers = range(0, num_prompts, num_prompts // STEP)[:STEP]
    prompts = [
        Prompt(prompt_id=prompt_id(number), token_ids=(1,), ground_truth="") for number in numbers
    ]
    outcomes = [outcome(number) for number in numbers]

    def work() -> None:
        for prompt in prompts:
            rule.next_stage_size(prompt, [])
            history.likely_chain_tokens(prompt.prompt_id, (4, 4))
            history.record(prompt)
        history.learn(1, outcomes)

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--run", type=Path, help="whose steps the cost is a share of")
    arguments = parser.parse_args()
    total: int = arguments.prompts

    tracemalloc.start()
    history = fill_history(total)
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{total:,} prompts seen")
    print(
        f"memory of a prompt           {held / total:8.1f} bytes, at most {most / total:.1f} while it grew"
    )
    per_step = median_s(step_of(history, total))
    print(
        f"a step of {STEP} prompts        {1e3 * per_step:8.2f} ms, {1e6 * per_step / STEP:.1f} us a prompt"
    )
    started = time.process_time()
    fill_history(total)
    print(f"a resume, {total:,} rows  {time.process_time() - started:8.1f} s, without reading them")
    if arguments.run:
        rows = [json.loads(line) for line in (arguments.run / "metrics.jsonl").open()]
        step_s = statistics.median(row["time/step_s"] for row in rows if "time/step_s" in row)
        config = load_config([arguments.run / "resolved_config.yaml"])
        prompts = config.rollout.prompts_per_step
        share = prompts * per_step / STEP / step_s
        print(
            f"share of a step              {share:8.3%} of {step_s:.3f} s, {prompts} prompts ({arguments.run})"
        )


if __name__ == "__main__":
    main()
