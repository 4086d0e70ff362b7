"""debug.mode=train_only: one dumped step through the actor, without a server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch

from megatron_ar3po.config.schema import Config
from megatron_ar3po.data.dump import load_groups
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.interfaces import Actor
from megatron_ar3po.observability.rank_logging import setup_logging
from megatron_ar3po.policy_update import PolicyUpdate
from megatron_ar3po.run.durable import write_durably
from megatron_ar3po.types import ResponseGroup


def replay(config: Config, ranks: Ranks, stack: ExitStack) -> None:
    """debug.mode=train_only: one dumped step through the actor at this layout, no server. Prints and writes
    RUN/replay.json: loss, gradient norm, token means and a fingerprint of the weights before and after."""
    from megatron_ar3po.actor.megatron_actor import MegatronActor  # slow to import

    setup_logging(ranks.layout, config.observability.log_level)
    actor = MegatronActor(config, ranks.layout)
    update = PolicyUpdate(actor, ranks, config)
    groups = groups_of_replica(load_groups(Path(config.debug.replay_path)), ranks.layout)
    batch = update.build_batch(update.make_samples(groups), groups)
    before = weights_fingerprint(actor, ranks)
    report = update.run(batch, groups)
    stats = report.stats
    facts = {
        "layout": ranks.layout.describe(),
        "loss": [s.loss for s in stats],
        "grad_norm": [s.grad_norm for s in stats],
        "metrics": [{n: r.value for n, r in s.token_records.items()} for s in stats],
        "loans": [asdict(loan) for loan in report.loans],
        "weights_before": before,
        "weights_after": weights_fingerprint(actor, ranks),
        "samples": report.batch.num_samples,
        "tokens": report.batch.num_tokens,
    }
    if ranks.is_first:
        config.run.path.mkdir(parents=True, exist_ok=True)
        write_durably(config.run.path / "replay.json", json.dumps(facts, indent=1))
        print(json.dumps(facts), flush=True)


def groups_of_replica(
    groups: Sequence[ResponseGroup], layout: ParallelLayout
) -> list[ResponseGroup]:
    return [g for g in groups if layout.owner_dp_rank(g.prompt.prompt_id) == layout.dp_rank]


def weights_fingerprint(actor: Actor, ranks: Ranks) -> list[float]:
    """(sum, sum of absolute values) over all weights, in float64; the same on every rank."""
    sums = torch.zeros(2, dtype=torch.float64)
    for bucket in actor.hf_buckets(64 * 1024 * 1024):
        for _, tensor in bucket:
            values = tensor.double()
            sums += torch.stack([values.sum(), values.abs().sum()]).cpu()
    return ranks.broadcast(sums.tolist())
