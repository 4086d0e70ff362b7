"""Servers, verifiers and controller without an actor: what samples benchmarks for `ar3po evaluate`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.suite import SuiteSet
from megatron_ar3po.config.validate import tokens_at_a_server
from megatron_ar3po.data.prompt_table import make_table
from megatron_ar3po.data.tokenizer import LateTokenizer
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.model_shape import read_model_shape
from megatron_ar3po.observability.rank_logging import setup_logging
from megatron_ar3po.prompt_set import PromptSet
from megatron_ar3po.rollout.draws import Draw, evaluation_draws
from megatron_ar3po.run.state import StartingPoint
from megatron_ar3po.servers.placement import ServerPlacement
from megatron_ar3po.servers.sglang_server import SglangServer
from megatron_ar3po.types import ScoredResponse
from megatron_ar3po.wiring.prompts_and_verifier import PromptsAndVerifier
from megatron_ar3po.wiring.sampling import EVALUATION_SEED_KEY, build_rollout
from megatron_ar3po.wiring.servers import (
    client_name,
    make_server,
    server_control,
    visible_gpus,
    wait_until_ready,
)
from megatron_ar3po.wiring.shared_memory import check_shared_memory
from megatron_ar3po.wiring.suite_prompts import ReadSet, read_sets, with_verifiers


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One policy and all that it is to be asked; nothing has been started."""

    config: Config  # of the servers, large enough for each of the sets
    ranks: Ranks
    tokenizer: LateTokenizer
    sets: list[ReadSet]

    @property
    def draws(self) -> list[list[Draw]]:
        """Of each set: `samples` of each prompt, in turn."""
        return [
            list(
                evaluation_draws(
                    [found.asked],
                    run_seed=self.config.run.seed,
                    seed_key=EVALUATION_SEED_KEY,
                    policy_version=0,
                )
            )
            for found in self.sets
        ]


def read_benchmark(config: Config, sets: Sequence[SuiteSet], rendered_at: datetime) -> Benchmark:
    """`config`: of the policy, model.path its tokenizer. `rendered_at` is what a chat template takes for now. Raises
    ValueError for prompts that cannot be evaluated on."""
    ranks = Ranks(ParallelLayout(), config.run.collective_timeout_s)
    setup_logging(ranks.layout, config.observability.log_level)
    tokenizer = LateTokenizer(config.model.path)
    model = config.model
    own = [SuiteSet(name=found.name, config=replace(found.config, model=model)) for found in sets]
    largest = max((found.config for found in own), key=tokens_at_a_server)
    return Benchmark(
        config=replace(config, data=largest.data, rollout=largest.rollout),
        ranks=ranks,
        tokenizer=tokenizer,
        sets=read_sets(own, tokenizer.loaded, rendered_at),
    )


def sample_benchmark(
    benchmark: Benchmark,
    asked: Sequence[Sequence[Draw]],
    server_tp: int,
    stack: ExitStack,
    find_weights: Callable[[], Path],
    seen: Callable[[Draw, ScoredResponse], None],
) -> None:
    """`asked`: of each set, any of its draws; `seen` is told of each response as it comes. One process, all GPUs of
    this node: as many servers of `server_tp` GPUs as there is room for. `find_weights`: the folder that servers load,
    made once nothing can be refused any more; its tokenizer is that of `model.path`. What an evaluation before has left
    in this folder goes then."""
    config, ranks = benchmark.config, benchmark.ranks
    check_shared_memory(config, ranks, publishes=False)
    placements = benchmark_placements(visible_gpus(), server_tp)
    sets = with_verifiers(benchmark.sets, benchmark.tokenizer, ranks, stack)
    shutil.rmtree(config.run.path / "ledger", ignore_errors=True)
    config = replace(config, model=replace(config.model, path=str(find_weights())))
    # `asked` may be no more than what the verifier failed for before: its share is for who knows all answers.
    config = replace(config, rewards=replace(config.rewards, max_error_frac=1.0))
    servers = _start_servers(config, placements, stack)
    wait_until_ready(servers)
    control = server_control(config, servers)
    control.set_weight_version(0)
    # A lost server that starts again has loaded the right weights itself.
    ranks.offer("republish", lambda url: control.set_weight_version(0))
    inputs = _inputs_of(benchmark, sets)
    rollout = build_rollout(
        config, ranks, stack, inputs, servers, router=None, start=StartingPoint()
    )
    draws = [
        replace(draw, verifier=own.verifier)
        for own, of_set in zip(sets, asked, strict=True)
        for draw in of_set
    ]
    rollout.sample_draws(draws, step=0, policy_version=0, seen=seen)
    rollout.ledger.reconcile(step=0)


def _inputs_of(benchmark: Benchmark, sets: Sequence[PromptSet]) -> PromptsAndVerifier:
    return PromptsAndVerifier(
        stop_token_ids=sets[0].sampling.stop_token_ids,
        vocab_size=read_model_shape(benchmark.config.model.path).vocab_size,
        training=make_table(lambda writer: None, None),
        held_out=[],
        sets=list(sets),
        verifier=sets[0].verifier,
        tokenizer=benchmark.tokenizer,
    )


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
