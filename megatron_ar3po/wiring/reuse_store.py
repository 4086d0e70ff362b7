"""The reuse store of this run: which shard, whose answers it may hold, and when it may change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.interfaces import Replay, ReuseShard
from megatron_ar3po.observability.timeline import Span, no_span
from megatron_ar3po.reuse.database import Fingerprint
from megatron_ar3po.reuse.lender import Lender
from megatron_ar3po.reuse.null_store import NullStore
from megatron_ar3po.reuse.opening import ShardClaim, claim_shard
from megatron_ar3po.reuse.recent_rows import RecentRows
from megatron_ar3po.reuse.replayer import NoReplayer, Replayer
from megatron_ar3po.reuse.store import ReuseStore
from megatron_ar3po.rewards.verdict_settings import verdict_settings
from megatron_ar3po.rollout.server_scorer import ServerScorer
from megatron_ar3po.run.state import StartingPoint
from megatron_ar3po.wiring.sampling import LeaderRollout


def claim_store(
    config: Config, ranks: Ranks, stack: ExitStack, start: StartingPoint
) -> ShardClaim | None:
    """Collective. Each leader claims its shard, held against what the run expects and where it starts. Nothing in
    RUN/reuse has changed when it returns, or raises. None on other ranks, and with `reuse.enabled=false`."""
    if not config.reuse.enabled:
        return None

    def claim() -> ShardClaim:
        claimed = claim_shard(
            config.run.path / "reuse",
            dp_rank=ranks.layout.dp_rank,
            dp_size=ranks.layout.data_parallel_size,
            run_seed=config.run.seed,
            fingerprint=fingerprint_of(config),
        )
        stack.callback(claimed.release)
        if config.run.resume:
            claimed.check_rollback(start.state.store_cursor)
        return claimed

    return ranks.only_on_leader(claim)


def open_store(
    config: Config,
    ranks: Ranks,
    stack: ExitStack,
    claim: ShardClaim | None,
    start: StartingPoint,
    check_ownership: Callable[[], None],
) -> ReuseShard:
    """Collective. Leaders open their shard, as of where a resumed run starts; the other ranks hold a store that nothing
    calls."""

    def open_shard() -> ReuseStore | None:
        if claim is None:
            return None
        store = ReuseStore.open_claimed(
            claim,
            config=config.reuse,
            sampler={"temperature": config.rollout.temperature, "top_p": config.rollout.top_p},
            check_ownership=check_ownership,
        )
        stack.callback(store.close)
        if config.run.resume:  # killed before its first checkpoint, too: it may have seen steps
            store.rollback(start.state.store_cursor)
        return store

    store = ranks.only_on_leader(open_shard)
    return NullStore() if store is None else store  # an empty store is falsy


def build_lender(
    config: Config, store: ReuseShard, rollout: LeaderRollout | None, span: Span = no_span
) -> Lender:
    """On leaders the servers say how likely stored answers are; other ranks lend nothing."""
    scorer = ServerScorer(rollout.controller, rollout.ledger) if rollout else None
    return Lender(store, scorer, run_seed=config.run.seed, span=span)


def open_replay(
    config: Config, ranks: Ranks, start: StartingPoint, check_ownership: Callable[[], None]
) -> Replay:
    """Collective. Rows of earlier steps, as of where the run starts: those of later steps are removed."""

    def open_rows() -> Replayer | None:
        folder = config.run.path / "replay"
        if not config.reuse.replay_frac and not folder.is_dir():
            return None
        rows = RecentRows(
            folder,
            ranks.layout,
            window=config.reuse.replay_window,
            last_step=start.last_step,
            check_ownership=check_ownership,
        )
        return Replayer(
            rows,
            replay_frac=config.reuse.replay_frac,
            run_seed=config.run.seed,
            gather_over_replicas=ranks.gather_over_replicas,
        )

    return ranks.only_on_leader(open_rows) or NoReplayer()


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
        verdicts=verdict_settings(config),
    )
