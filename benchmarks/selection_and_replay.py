"""What choosing a step's prompts and replaying rows costs, at a million prompts.

    python benchmarks/selection_and_replay.py [--prompts 1000000] [--run runs/NAME]

Selection: a step of 16 and of 256 prompts of a million, of which half have been visited: the draw and its records,
then what is learnt of it. Replay: a step of so many rows, of 6 and of 1,024 tokens, half of the step replayed out of a
window of 16 steps: the draw and the file of the step's own rows; apart, the sync of that file, which comes with a
checkpoint. Medians of processor time, and beside it of the clock where it writes. `--run`: the same for the sizes of
that run (prompts a step, most tokens of a response), and the share of its median step that the dearest selection,
replay and its sync come to.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from megatron_ar3po.config.load import load_config
from megatron_ar3po.data.prompt_source import PromptSource
from megatron_ar3po.data.prompt_visits import PromptVisits
from megatron_ar3po.data.selected_prompts import SelectedPrompts
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.prompt_record import PromptOutcome
from megatron_ar3po.reuse.recent_rows import RecentRows
from megatron_ar3po.reuse.replayer import Replayer
from megatron_ar3po.types import Prompt, TrainingSample

ROUNDS = 15
WINDOW_STEPS = 16


@dataclass(frozen=True)
class Cost:
    processor_s: float
    clock_s: float


def measure(work: Callable[[], object]) -> Cost:
    """Medians."""
    processor, clock = [], []
    for _ in range(ROUNDS):
        started, started_clock = time.process_time(), time.perf_counter()
        work()
        processor.append(time.process_time() - started)
        clock.append(time.perf_counter() - started_clock)
    return Cost(statistics.median(processor), statistics.median(clock))


def make_prompts(num: int) -> list[Prompt]:
    return [
        Prompt(
            prompt_id=sha256(str(number).encode()).hexdigest()[:32], token_ids=(1,), ground_truth=""
        )
        for number in range(num)
    ]


def outcomes_of(prompts: list[Prompt]) -> list[PromptOutcome]:
    return [
        PromptOutcome(
            prompt_id=prompt.prompt_id, source="", responses=1, correct=index % 2, tokens=100
        )
        for index, prompt in enumerate(prompts)
    ]


def measure_selection(
    prompts: list[Prompt], source: PromptSource, visits: PromptVisits, selection: str, per_step: int
) -> Cost:
    order = SelectedPrompts(source, visits, selection=selection, exploration_frac=0.25, seed=0)

    def step() -> None:
        order.start_step()
        drawn = [each.prompt for each in order.next_batch(per_step)]
        _ = order.records
        visits.learn(visits.counts.step + 1, outcomes_of(drawn))

    return measure(step)


def measure_epoch(source: PromptSource, per_step: int) -> Cost:
    def step() -> None:
        source.start_step()
        source.next_batch(per_step)

    return measure(step)


def rows_of(step: int, num: int, num_tokens: int) -> list[TrainingSample]:
    return [
        TrainingSample(
            group_position=position,
            prompt_id=f"{position:032x}",
            response_id=f"s{step}.p{position}.1.0",
            prompt_token_ids=tuple(range(64)),
            response_token_ids=np.arange(num_tokens, dtype=np.int32),
            behaviour_logprobs=np.full(num_tokens, -0.5, np.float32),
            advantage=0.5,
            reward=1.0,
            origin="fresh",
            policy_version=step,
        )
        for position in range(num)
    ]


def measure_replay(num_rows: int, num_tokens: int) -> tuple[Cost, float]:
    """(of a step, clock seconds of the sync of one file)"""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        rows = RecentRows(
            Path(folder), ParallelLayout(), window=WINDOW_STEPS * num_rows, last_step=-1
        )
        replayer = Replayer(rows, replay_frac=0.5, run_seed=0)
        for step in range(1, WINDOW_STEPS + 1):
            rows.keep(
                rows_of(step, num_rows, num_tokens),
                step=step,
                num_own=num_rows,
                num_responses=num_rows,
            )
        steps = iter(range(WINDOW_STEPS + 1, WINDOW_STEPS + 1 + ROUNDS))
        made = {
            step: rows_of(step, num_rows, num_tokens)
            for step in range(WINDOW_STEPS + 1, WINDOW_STEPS + 1 + ROUNDS)
        }

        def work() -> None:
            step = next(steps)
            replayer.draw(made[step], [], step=step)

        cost = measure(work)
        started = time.perf_counter()
        rows.sync()
        synced_s = time.perf_counter() - started
        return cost, synced_s / (WINDOW_STEPS + ROUNDS)


def show(
    prompts: list[Prompt], source: PromptSource, visits: PromptVisits, per_step: int, tokens: int
) -> float:
    """Seconds of the dearest selection and of replay with its sync."""
    print(f"a step of {per_step} prompts of {len(prompts):,}")
    epoch = measure_epoch(source, per_step)
    print(f"  epoch                {1e3 * epoch.processor_s:8.2f} ms")
    costs = []
    for selection in ("weighted", "thompson"):
        cost = measure_selection(prompts, source, visits, selection, per_step)
        costs.append(cost.processor_s)
        print(f"  {selection:<20} {1e3 * cost.processor_s:8.2f} ms")
    replay, synced_s = measure_replay(per_step, tokens)
    print(
        f"  replay, {tokens} tokens  {1e3 * replay.processor_s:8.2f} ms, {1e3 * replay.clock_s:.2f} ms by the clock"
    )
    print(f"  the sync of its file     {1e3 * synced_s:8.2f} ms by the clock, with a checkpoint")
    return max(costs) + replay.processor_s + synced_s


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--run", type=Path, help="whose steps the cost is a share of")
    arguments = parser.parse_args()
    prompts = make_prompts(arguments.prompts)
    source = PromptSource(prompts, seed=0, shuffle=False)
    started = time.process_time()
    visits = PromptVisits(prompts, decay=0.95)
    print(f"counts: {visits.num_bytes / len(prompts):.0f} bytes a prompt, made in ", end="")
    print(f"{time.process_time() - started:.1f} s")
    visits.learn(1, outcomes_of(prompts[: len(prompts) // 2]))
    show(prompts, source, visits, 16, 6)
    show(prompts, source, visits, 256, 1024)
    if arguments.run:
        rows = [json.loads(line) for line in (arguments.run / "metrics.jsonl").open()]
        step_s = statistics.median(row["time/step_s"] for row in rows if "time/step_s" in row)
        rollout = load_config([arguments.run / "resolved_config.yaml"]).rollout
        cost = show(prompts, source, visits, rollout.prompts_per_step, rollout.max_response_tokens)
        print(f"share of a step of {step_s:.3f} s ({arguments.run}): {cost / step_s:.2%}")


if __name__ == "__main__":
    main()
