"""A rollout on 8 to 4,096 GPUs, with the real controller, ledger, reuse store and status files, and simulated servers.

    python benchmarks/cluster_sim.py [--quick] [--prompts-per-server N]

A server is 8 GPUs and holds half of the first stages of its prompts at once; each of these responses gets a token
every 25 ms, in virtual time, so that a step of minutes takes seconds of a processor. Lengths are log-normal with a mean
of 500 tokens, cut at 2,048; pass rates Beta(0.4, 0.6); two stages of four. A step's prompts grow with the servers.

First every server is a replica of its own, as a run has it: prompts belong to replicas by their id, each leader has its
controller, its ledger and its shard of the store, and the step ends with the slowest. `ideal` is the same work shared
out evenly without an idle slot. Then one controller before all servers, as one replica with many servers is, or a
router: prompts go to whichever server has room. Processor time is that of this process, simulated servers and verifier
included; it is the same work for each response in every row.

Then the status files: each rank writes one every 5 s, and `ar3po status` reads them all.

Left out: HTTP, the verifier's own time, collectives between ranks, the update, and a file system that is shared.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rollout_stages import SimulatedVerifier, VirtualTimePolicy

from megatron_ar3po.algorithm.response_reuse import responses_worth_keeping
from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.distributed.rank_status import RankStatus, read_statuses, write_status
from megatron_ar3po.platform.garbage import hold_collections, keep_what_is_here
from megatron_ar3po.reuse.database import Fingerprint
from megatron_ar3po.reuse.shards import ShardSet
from megatron_ar3po.reuse.store import ReuseStore
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.rollout.ledger import Ledger
from megatron_ar3po.rollout.step_sampler import FixedSampler
from megatron_ar3po.types import (
    CollectedStep,
    Generation,
    GenerationRequest,
    Prompt,
    Scoring,
    ScoringRequest,
    StepPrompt,
)

SERVERS = (1, 4, 8, 64, 512)
GPUS_OF_SERVER, SECONDS_OF_TOKEN = 8, 0.025
STAGES, RESPONSES_OF_STAGE, LONGEST, MEAN_LENGTH, SIGMA = 2, 4, 2048, 500, 0.8
STATUS_EVERY_S = 5.0


class DrawnPrompts:
    """Lengths and verdicts, a function of prompt and seed alone."""

    num_known = 0

    def __init__(self, count: int) -> None:
        draw = np.random.default_rng(0)
        self.rates = draw.beta(0.4, 0.6, count).tolist()
        self.lengths = self._draw_lengths()

    @staticmethod
    def _draw_lengths() -> list[int]:
        drawn = np.random.default_rng(1).lognormal(0, SIGMA, 65_536)
        scaled = drawn * (MEAN_LENGTH / np.minimum(drawn, LONGEST / MEAN_LENGTH).mean())
        return np.clip(scaled, 8, LONGEST).astype(int).tolist()

    def answer(self, prompt: int, seed: int) -> tuple[int, bool]:
        luck = seed * 2654435761 % 2**31 / 2**31
        return self.lengths[seed * 40503 % 65_536], luck < self.rates[prompt]

    def earlier_responses(self, prompt: int) -> list[tuple[int, bool]]:
        return []


class SlotEngine:
    """All servers that one controller uses: so many slots, each a token every 25 ms."""

    def __init__(self, source: DrawnPrompts, slots: int) -> None:
        self._source = source
        self._slots = slots
        self._free: asyncio.Semaphore | None = None

    async def generate(self, request: GenerationRequest) -> Generation:
        self._free = self._free or asyncio.Semaphore(self._slots)
        length, _ = self._source.answer(request.prompt_token_ids[2], request.seed)
        async with self._free:
            await asyncio.sleep(length * SECONDS_OF_TOKEN)
        return Generation(
            token_ids=np.zeros(length, dtype=np.int32),
            logprobs=np.zeros(length, dtype=np.float32),
            finish_reason="length" if length == LONGEST else "stop",
            policy_version=0,
            server="s",
        )

    async def score(self, request: ScoringRequest) -> Scoring:
        raise NotImplementedError("nothing is scored here")

    async def abort(self, request_id: str) -> None:
        raise NotImplementedError("nothing is aborted here")

    async def num_in_flight_of_others(self) -> int | None:
        return None

    async def repair_all(self) -> None:
        return None

    async def close(self) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class Rolled:
    """What one controller's part of a step was, and what it cost."""

    seconds: float  # virtual
    responses: int
    tokens: int
    controller_s: float  # of the processor
    ledger_bytes: int
    store_s: float
    store_bytes: int


def make_prompts(count: int) -> list[StepPrompt]:
    draw = np.random.default_rng(2)
    return [
        StepPrompt(
            position=position,
            prompt=Prompt(
                prompt_id=f"{int(draw.integers(2**63)):016x}{position:016x}",
                token_ids=(1, 2, position),
                ground_truth="",
            ),
        )
        for position in range(count)
    ]


def roll_out(
    folder: Path,
    source: DrawnPrompts,
    prompts: Sequence[StepPrompt],
    layout: ParallelLayout,
    slots: int,
) -> Rolled:
    """One leader's rollout, its rows in the ledger, and its deposit of what was correct."""
    config = RolloutConfig(
        num_stages=STAGES,
        responses_per_stage=RESPONSES_OF_STAGE,
        max_response_tokens=LONGEST,
        prompts_per_step=len(prompts),
    )
    controller = RolloutController(
        SlotEngine(source, slots),
        SimulatedVerifier(source),
        config,
        ServersConfig(max_concurrent_requests=slots),
        run_seed=0,
        stop_token_ids=(),
        max_context_tokens=LONGEST + 64,
        vocab_size=len(source.rates) + 8,
    )
    ledger_file = folder / "ledger" / f"dp{layout.dp_rank:02d}.jsonl"
    sampler = FixedSampler(
        controller,
        lambda count: prompts,
        layout=layout,
        prompts_per_step=len(prompts),
        ledger=Ledger(ledger_file),
    )
    before = time.process_time()
    collected = sampler.collect(step=1, policy_version=0)
    controller_s = time.process_time() - before
    seconds = controller._loop.time()
    controller.close()
    store_s, store_bytes = deposit(folder / "reuse", layout, collected)
    sampled = [r.response for group in collected.groups for r in group.responses]
    return Rolled(
        seconds=seconds,
        responses=len(sampled),
        tokens=sum(response.num_tokens for response in sampled),
        controller_s=controller_s,
        ledger_bytes=ledger_file.stat().st_size,
        store_s=store_s,
        store_bytes=store_bytes,
    )


def deposit(folder: Path, layout: ParallelLayout, collected: CollectedStep) -> tuple[float, int]:
    store = ReuseStore.open(
        folder,
        dp_rank=layout.dp_rank,
        dp_size=layout.data_parallel_size,
        config=ReuseConfig(),
        run_seed=0,
        fingerprint=Fingerprint(run="simulated", model="none", tokenizer="none"),
        sampler={"temperature": 1.0, "top_p": 1.0},
    )
    prompts = {group.prompt.prompt_id: group.prompt for group in collected.groups}
    before = time.process_time()
    store.deposit(responses_worth_keeping(collected.groups), prompts=prompts, step=1)
    spent = time.process_time() - before
    store.close()
    shard = ShardSet(1, layout.data_parallel_size).path(folder, layout.dp_rank)
    return spent, shard.stat().st_size


def slots_of(prompts_of_server: int) -> int:
    return prompts_of_server * RESPONSES_OF_STAGE // 2


def roll_out_replicas(folder: Path, num_servers: int, prompts_of_server: int) -> list[Rolled]:
    """Each server a replica."""
    count = num_servers * prompts_of_server
    source, prompts = DrawnPrompts(count), make_prompts(count)
    slots = slots_of(prompts_of_server)
    rolled = []
    for dp in range(num_servers):
        layout = ParallelLayout(world_size=num_servers, rank=dp)
        owned = [p for p in prompts if layout.owner_dp_rank(p.prompt.prompt_id) == dp]
        if owned:
            rolled.append(roll_out(folder, source, owned, layout, slots))
    return rolled


def roll_out_together(folder: Path, num_servers: int, prompts_of_server: int) -> list[Rolled]:
    """One controller before all."""
    count = num_servers * prompts_of_server
    slots = num_servers * slots_of(prompts_of_server)
    source, prompts = DrawnPrompts(count), make_prompts(count)
    return [roll_out(folder, source, prompts, ParallelLayout(), slots)]


def show_rollouts(
    title: str,
    roll: Callable[[Path, int, int], list[Rolled]],
    counts: Sequence[int],
    prompts_of_server: int,
) -> None:
    print(f"\n{title}")
    print(
        f"{'servers':>8}{'GPUs':>6}{'responses':>10}{'step':>8}{'x ideal':>9}{'idle':>7}{'controller':>12}{'ratio':>7}"
        f"{'ledger':>9}{'store':>9}{'deposit':>9}"
    )
    first = 0.0
    for num_servers in counts:
        with tempfile.TemporaryDirectory() as folder:
            rolled = roll(Path(folder), num_servers, prompts_of_server)
        gc.collect()
        responses = sum(r.responses for r in rolled)
        step_s = max(r.seconds for r in rolled)
        slots = num_servers * slots_of(prompts_of_server)
        ideal_s = sum(r.tokens for r in rolled) * SECONDS_OF_TOKEN / slots
        of_response = sum(r.controller_s for r in rolled) / responses
        first = first or of_response
        print(
            f"{num_servers:>8}{num_servers * GPUS_OF_SERVER:>6}{responses:>10,}{step_s:>7.0f}s{step_s / ideal_s:>9.2f}"
            f"{1 - ideal_s / step_s:>7.0%}{1e6 * of_response:>10.0f}us{of_response / first:>7.2f}"
            f"{sum(r.ledger_bytes for r in rolled) / 1e6:>7.2f}MB{sum(r.store_bytes for r in rolled) / 1e6:>7.1f}MB"
            f"{1e6 * sum(r.store_s for r in rolled) / responses:>7.0f}us",
            flush=True,
        )


def show_status_files(counts: Sequence[int]) -> None:
    print("\nstatus files: one of each rank every 5 s")
    print(f"{'ranks':>8}{'files a s':>11}{'a write':>10}{'status reads all':>18}")
    for num_servers in counts:
        ranks = num_servers * GPUS_OF_SERVER
        with tempfile.TemporaryDirectory() as folder:
            before = time.process_time()
            for rank in range(ranks):
                write_status(Path(folder), status_of(rank, ranks))
            write_s = (time.process_time() - before) / ranks
            before = time.process_time()
            assert len(read_statuses(Path(folder))) == ranks
            read_s = time.process_time() - before
        print(
            f"{ranks:>8}{ranks / STATUS_EVERY_S:>11.0f}{1e6 * write_s:>8.0f}us{1e3 * read_s:>16.0f}ms"
        )


def status_of(rank: int, world_size: int) -> RankStatus:
    return RankStatus(
        rank=rank,
        world_size=world_size,
        host=f"node{rank // GPUS_OF_SERVER:04d}",
        pid=4000 + rank,
        steps_done=11,
        phase="step/rollout",
        phase_s=31.5,
        num_collectives=100,
        written=time.time(),
        end="",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="8 servers at most")
    parser.add_argument("--prompts-per-server", type=int, default=32)
    arguments = parser.parse_args()
    counts = [n for n in SERVERS if n <= 8 or not arguments.quick]
    asyncio.set_event_loop_policy(VirtualTimePolicy())
    hold_collections()
    keep_what_is_here()  # as a run does
    print(f"load average {os.getloadavg()[0]:.0f}")
    each = arguments.prompts_per_server
    show_rollouts(
        f"replicas of one server, {each} prompts a server", roll_out_replicas, counts, each
    )
    show_rollouts(f"one controller, {each} prompts a server", roll_out_together, counts, each)
    show_status_files(counts)


if __name__ == "__main__":
    main()
