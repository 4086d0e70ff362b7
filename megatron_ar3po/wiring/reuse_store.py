"""The reuse store of this run: which shard, and whose answers it may hold."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from pathlib import Path

from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.interfaces import ReuseShard
from megatron_ar3po.reuse.database import Fingerprint
from megatron_ar3po.reuse.lender import Lender
from megatron_ar3po.reuse.null_store import NullStore
from megatron_ar3po.reuse.store import ReuseStore
from megatron_ar3po.rollout.server_scorer import ServerScorer
from megatron_ar3po.wiring.sampling import LeaderRollout


def open_store(config: Config, ranks: Ranks, stack: ExitStack) -> ReuseShard:
    """Collective. Leaders open their shard; the other ranks hold a store that nothing calls."""
    if not config.reuse.enabled:
        return NullStore()

    def open_shard() -> ReuseStore:
        store = ReuseStore.open(
            config.run.path / "reuse",
            dp_rank=ranks.layout.dp_rank,
            dp_size=ranks.layout.data_parallel_size,
            config=config.reuse,
            run_seed=config.run.seed,
            fingerprint=fingerprint_of(config),
            sampler={"temperature": config.rollout.temperature, "top_p": config.rollout.top_p},
        )
        stack.callback(store.close)
        return store

    store = ranks.only_on_leader(open_shard)
    return NullStore() if store is None else store  # an empty store is falsy


def build_lender(config: Config, store: ReuseShard, rollout: LeaderRollout | None) -> Lender:
    """On leaders the servers say how likely stored answers are; other ranks lend nothing."""
    scorer = ServerScorer(rollout.controller, rollout.ledger) if rollout else None
    return Lender(store, scorer, run_seed=config.run.seed)


def fingerprint_of(config: Config) -> Fingerprint:
    """Whose answers the reuse store holds."""

    def digest(*names: str) -> str:
        files = [Path(config.model.path) / name for name in names]
        content = b"".join(file.read_bytes() for file in files if file.is_file())
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    return Fingerprint(
        run=config.run.name,
        model=digest("config.json"),
        tokenizer=digest("tokenizer.json", "tokenizer.model", "vocab.json"),
        tokenizer_path=str(Path(config.model.path).resolve()),
    )
