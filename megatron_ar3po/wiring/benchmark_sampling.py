"""Servers, verifier and controller without an actor: what samples a benchmark for `ar3po evaluate`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.observability.rank_logging import setup_logging
from megatron_ar3po.run.state import StartingPoint
from megatron_ar3po.servers.placement import ServerPlacement
from megatron_ar3po.servers.sglang_server import SglangServer
from megatron_ar3po.types import Prompt, ScoredResponse
from megatron_ar3po.wiring.prompts_and_verifier import load_prompts_and_verifier
from megatron_ar3po.wiring.sampling import build_rollout, evaluation_sampling
from megatron_ar3po.wiring.servers import (
    client_name,
    make_server,
    server_control,
    visible_gpus,
    wait_until_ready,
)
from megatron_ar3po.wiring.shared_memory import check_shared_memory


@dataclass(frozen=True, kw_only=True)
class Sampled:
    prompts: list[Prompt]
    answers: list[list[ScoredResponse]]  # of each prompt
    decode: Callable[[Sequence[int]], str]


def sample_benchmark(
    config: Config,
    server_tp: int,
    stack: ExitStack,
    rendered_at: datetime,
    find_weights: Callable[[], Path],
) -> Sampled:
    """The prompts of data.path and evaluation.samples_per_prompt answers of each. One process, all GPUs of this node:
    as many servers of `server_tp` GPUs as there is room for. `rendered_at` is what a chat template takes for now.
    `find_weights`: the folder that servers load, made once nothing can be refused any more; its tokenizer is that of
    `model.path`. What an evaluation before has left in this folder goes then."""
    ranks = Ranks(ParallelLayout(), config.run.collective_timeout_s)
    setup_logging(ranks.layout, config.observability.log_level)
    check_shared_memory(config, ranks, publishes=False)
    placements = benchmark_placements(visible_gpus(), server_tp)
    inputs = load_prompts_and_verifier(config, ranks, stack, rendered_at)
    shutil.rmtree(config.run.path / "ledger", ignore_errors=True)
    config = replace(config, model=replace(config.model, path=str(find_weights())))
    servers = _start_servers(config, placements, stack)
    inputs.load_tokenizer()  # while they import
    wait_until_ready(servers)
    control = server_control(config, servers)
    control.set_weight_version(0)
    # A lost server that starts again has loaded the right weights itself.
    ranks.offer("republish", lambda url: control.set_weight_version(0))
    rollout = build_rollout(
        config, ranks, stack, inputs, servers, router=None, start=StartingPoint()
    )
    prompts = inputs.training[: config.evaluation.max_prompts or None]
    answers = rollout.sample_for_evaluation(
        prompts,
        config.evaluation.samples_per_prompt,
        evaluation_sampling(config, inputs),
        step=0,
        policy_version=0,
    )
    rollout.ledger.reconcile(step=0)
    return Sampled(prompts=prompts, answers=answers, decode=inputs.decode)


def benchmark_placements(gpus: Sequence[str], server_tp: int) -> list[ServerPlacement]:
    """
    >>> [p.gpu_ids for p in benchmark_placements(["0", "1", "2", "3"], 2)]
    [('0', '1'), ('2', '3')]
    """
    if not gpus:
        return [ServerPlacement(name="eval.s0")]
    if len(gpus) < server_tp:
        raise ValueError(
            f"a server of {server_tp} GPUs does not fit the {len(gpus)} GPUs that are visible; lower --server-tp."
        )
    return [
        ServerPlacement(
            name=f"eval.s{i}",
            number=i,
            gpu_ids=tuple(gpus[i * server_tp : (i + 1) * server_tp]),
            tensor_parallel_size=server_tp,
        )
        for i in range(len(gpus) // server_tp)
    ]


def _start_servers(
    config: Config, placements: Sequence[ServerPlacement], stack: ExitStack
) -> list[SglangServer]:
    servers = [
        make_server(config, placement, config.run.path / "logs", owner=client_name(config))
        for placement in placements
    ]
    for server in servers:
        server.start()
        stack.callback(server.stop)
    return servers
