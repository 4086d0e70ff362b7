"""What a step of the actor costs with and without a forward pass for its old log-probs, as ratios of one run.

    python benchmarks/old_logprobs.py [--size tiny|medium|all] [--rounds N]

A step is `MegatronActor.compute_logprobs` and the `update` of every mini-batch, on a random model (sizes of
train_step.py). `every`: each mini-batch has its old log-probs from a pass before the first update. `needed`: the first
takes them from its own forward pass, as `algorithm.old_logprobs=recompute` has it. `server`: no pass, as `behaviour`
has it. Rounds take turns, so that a busy machine slows all alike; times are of this process's CPU, and a ratio is the
median over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from train_step import SIZES, Size, batch_of, write_model

from megatron_ar3po.actor.megatron_actor import MegatronActor
from megatron_ar3po.config.actor import ActorConfig
from megatron_ar3po.config.model import ModelConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.collectives import start_process_group
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.types import MiniBatch, OldLogprobsFrom, TrainingBatch

# (of the first mini-batch, of the others)
WAYS: dict[str, tuple[OldLogprobsFrom, OldLogprobsFrom]] = {
    "every": ("pass", "pass"),
    "needed": ("update", "pass"),
    "server": ("update", "server"),
}


def step_of(size: Size, num_mini_batches: int, way: str) -> TrainingBatch:
    """The same sequences, one micro-batch for each mini-batch."""
    size = replace(size, micro_batches=num_mini_batches)
    (whole,) = batch_of(size).mini_batches
    minis = []
    for index, micro in enumerate(whole.micro_batches):
        source = WAYS[way][min(index, 1)]
        marked = replace(
            micro,
            old_logprobs_from=source,
            weights=micro.weights * num_mini_batches,
            uses_behaviour_logprobs=(micro.loss_mask > 0) & (way == "server"),
        )
        minis.append(MiniBatch(micro_batches=(marked,), num_units=1, num_sequences=1))
    return TrainingBatch(mini_batches=tuple(minis), num_samples=size.sequences, num_tokens=0)


def cpu_seconds(actor: MegatronActor, batch: TrainingBatch) -> float:
    started = time.process_time()
    for mini_batch in actor.compute_logprobs(batch).mini_batches:
        actor.update(mini_batch)
    return time.process_time() - started


def measure(size: Size, num_mini_batches: int, rounds: int) -> dict[str, list[float]]:
    from megatron.core import parallel_state

    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    with tempfile.TemporaryDirectory() as folder:
        write_model(size, Path(folder))
        config = Config(model=ModelConfig(path=folder), actor=ActorConfig(learning_rate=1e-6))
        actor = MegatronActor(config, ParallelLayout())
    names = [name for name in WAYS if num_mini_batches > 1 or name != "server"]
    batches = {name: step_of(size, num_mini_batches, name) for name in names}
    for batch in batches.values():
        cpu_seconds(actor, batch)
    times: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(rounds):
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            times[name].append(cpu_seconds(actor, batches[name]))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=[*SIZES, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=0, help="0: 30 tiny rounds, 5 medium ones")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start_process_group(600.0)
    table = Table(title="A step of the actor, with and without a pass for old log-probs (CPU time)")
    for column in ("size", "mini-batches", "every", "needed", "server", "needed / every"):
        table.add_column(column, justify="left" if column == "size" else "right")
    table.add_column("server / every", justify="right")
    for name, size in SIZES.items():
        for num_mini_batches in (1, 4):
            if arguments.size not in (name, "all"):
                continue
            rounds = arguments.rounds or {"tiny": 30, "medium": 5}[name]
            times = measure(size, num_mini_batches, rounds)
            row = [name, str(num_mini_batches)]
            for way in WAYS:
                has_it = way in times
                row.append(f"{statistics.median(times[way]) * 1e3:.0f} ms" if has_it else "")
            for way in ("needed", "server"):
                pairs = zip(times.get(way, ()), times["every"], strict=False)
                ratios = [a / b for a, b in pairs]
                row.append(f"{statistics.median(ratios):.2f}" if ratios else "")
            table.add_row(*row)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
