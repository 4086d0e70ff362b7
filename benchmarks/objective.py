"""The objective's share of a train step: groups to weights on the host, then the loss and its gradient by log-probs.

    python benchmarks/objective.py [--size medium|tiny] [--rounds N]

A train step is `MegatronActor.compute_logprobs` and `update` on a Megatron model (sizes of train_step.py). The
objective is what `algorithm/` does for the same sequences: advantages, samples and weights of their groups (host);
`policy_loss` (forward); its backward down to the log-probs and the entropy. Log-probs and entropy themselves belong to
the output layer, the forward of a reference policy to the KL. CPU seconds of one thread, so that a busy machine changes
them little; the share is the median over rounds, in each of which both were measured.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from train_step import SIZES, batch_of, write_model

from megatron_ar3po.actor.megatron_actor import MegatronActor
from megatron_ar3po.algorithm.aggregation import token_weights
from megatron_ar3po.algorithm.policy_loss import policy_loss
from megatron_ar3po.algorithm.training_samples import samples_with_signal
from megatron_ar3po.config.actor import ActorConfig
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.config.model import ModelConfig
from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.collectives import start_process_group
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.types import (
    MicroBatch,
    MiniBatch,
    Prompt,
    Response,
    ResponseGroup,
    ScoredResponse,
    Verdict,
)

TARGET = 0.03
GROUP_SIZE = 4
OBJECTIVES = {
    "ppo (the default)": AlgorithmConfig(),
    "dual_clip": AlgorithmConfig(policy_loss="dual_clip"),
    "gspo": AlgorithmConfig(policy_loss="gspo"),
    "cispo": AlgorithmConfig(policy_loss="cispo"),
    "gmpo": AlgorithmConfig(policy_loss="gmpo"),
    "ppo, KL, entropy, sequence correction": AlgorithmConfig(
        kl_coef=0.1, entropy_coef=0.01, importance_sampling="sequence"
    ),
}


@dataclass(frozen=True)
class Times:
    host: float
    forward: float
    backward: float

    @property
    def total(self) -> float:
        return self.host + self.forward + self.backward


def cpu_seconds(action: Callable[[], object], repeats: int = 1) -> float:
    started = time.process_time()
    for _ in range(repeats):
        action()
    return (time.process_time() - started) / repeats


def groups_like(micro_batches: Sequence[MicroBatch]) -> list[ResponseGroup]:
    """The batch's sequences as groups of four, the first of each correct: prompt a third, as in the batch."""
    lengths = [n for mb in micro_batches for n in mb.cu_seqlens.diff().tolist()]
    groups = []
    for position, start in enumerate(range(0, len(lengths), GROUP_SIZE)):
        prompt = Prompt(prompt_id=f"p{position}", token_ids=tuple(range(30)), ground_truth="")
        responses = [
            ScoredResponse(
                response=Response(
                    response_id=f"p{position}.{i}",
                    prompt_id=prompt.prompt_id,
                    token_ids=np.zeros(n - n // 3, np.int32),
                    logprobs=np.zeros(n - n // 3, np.float32),
                    finish_reason="stop",
                    policy_version=0,
                    step=1,
                    stage=1,
                    index=i,
                ),
                verdict=Verdict(reward=float(i == 0), status="correct" if i == 0 else "incorrect"),
            )
            for i, n in enumerate(lengths[start : start + GROUP_SIZE])
        ]
        groups.append(ResponseGroup(position=position, prompt=prompt, responses=tuple(responses)))
    return groups


def objective_times(mini: MiniBatch, config: AlgorithmConfig, repeats: int) -> Times:
    groups = groups_like(mini.micro_batches)

    def host() -> None:
        samples = samples_with_signal(groups, config, ReuseConfig())
        token_weights(samples, config.loss_aggregation)

    times = Times(cpu_seconds(host, repeats), 0.0, 0.0)
    for mb in mini.micro_batches:
        assert mb.old_logprobs is not None
        batch = replace(mb, reference_logprobs=mb.old_logprobs - 0.1 * mb.loss_mask)
        logprobs = (mb.old_logprobs + 0.01).requires_grad_()
        entropy = torch.ones_like(mb.weights).requires_grad_(config.entropy_coef != 0)

        def forward(
            logprobs: torch.Tensor = logprobs,
            entropy: torch.Tensor = entropy,
            batch: MicroBatch = batch,
        ) -> torch.Tensor:
            return policy_loss(
                logprobs,
                batch,
                config,
                entropy=entropy,
                reference_logprobs=batch.reference_logprobs,
            ).loss

        alone = cpu_seconds(forward, repeats)
        both = cpu_seconds(lambda f=forward: f().backward(), repeats)
        times = replace(
            times, forward=times.forward + alone, backward=times.backward + max(both - alone, 0.0)
        )
    return times


def measure(size_name: str, rounds: int) -> tuple[int, int, float, dict[str, tuple[Times, float]]]:
    size = SIZES[size_name]
    with tempfile.TemporaryDirectory() as folder:
        parameters = write_model(size, Path(folder))
        config = Config(model=ModelConfig(path=folder), actor=ActorConfig(learning_rate=1e-5))
        actor = MegatronActor(config, ParallelLayout())
        batch = batch_of(size)
        actor.update(actor.compute_logprobs(batch).mini_batches[0])
        steps: list[float] = []
        shares: dict[str, list[float]] = {name: [] for name in OBJECTIVES}
        times: dict[str, list[Times]] = {name: [] for name in OBJECTIVES}
        for _ in range(rounds):
            filled = actor.compute_logprobs(batch).mini_batches[0]
            steps.append(
                cpu_seconds(lambda: actor.update(actor.compute_logprobs(batch).mini_batches[0]))
            )
            for name, objective in OBJECTIVES.items():
                found = objective_times(filled, objective, repeats=10)
                times[name].append(found)
                shares[name].append(found.total / steps[-1])
    middle = {
        name: (
            sorted(times[name], key=lambda t: t.total)[rounds // 2],
            statistics.median(shares[name]),
        )
        for name in OBJECTIVES
    }
    return parameters, batch.num_tokens, statistics.median(steps), middle


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=list(SIZES), default="medium")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start_process_group(600.0)
    parameters, tokens, step, found = measure(arguments.size, arguments.rounds)
    table = Table(
        title=f"The objective beside a train step of {step * 1e3:.0f} ms "
        f"({parameters / 1e6:.1f} M parameters, {tokens} tokens, CPU time of one thread)"
    )
    table.add_column("objective")
    for column in ("host", "forward", "backward", "share", "target"):
        table.add_column(column, justify="right")
    for name, (times, share) in found.items():
        parts = (times.host, times.forward, times.backward)
        table.add_row(
            name, *(f"{t * 1e3:.2f} ms" for t in parts), f"{share:.2%}", f"<= {TARGET:.0%}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
