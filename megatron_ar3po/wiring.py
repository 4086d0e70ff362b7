"""Config -> parts -> trainer. The one place that names concrete classes, and where rooms that do not know each other
are introduced. Everything that must be ended is put on the caller's ExitStack the moment it is started.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from megatron_ar3po.colocation import Colocation, ColocatedGpus, SharedHostMemory
from megatron_ar3po.config.load import to_yaml
from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.validate import warnings_of
from megatron_ar3po.data.batch_builder import BatchBuilder
from megatron_ar3po.data.dataset import load_prompts
from megatron_ar3po.data.dump import load_samples
from megatron_ar3po.data.prompt_source import PromptSource
from megatron_ar3po.data.tokenizer import load_tokenizer, model_vocab_size, stop_token_ids
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.evaluation import Evaluator
from megatron_ar3po.frozen_policy import FrozenActor, FrozenPublisher
from megatron_ar3po.interfaces import Actor, ReuseShard, Verifier, WeightPublisher
from megatron_ar3po.observability.metrics import Metrics, drop_rows_after
from megatron_ar3po.observability.progress import RunProgress
from megatron_ar3po.observability.rank_logging import setup_logging
from megatron_ar3po.observability.rollout_recorder import RolloutRecorder
from megatron_ar3po.reuse.database import Fingerprint
from megatron_ar3po.reuse.store import NullStore, ReuseStore
from megatron_ar3po.rewards.verifier import make_verifier
from megatron_ar3po.run_state import CheckpointFolder, RunState, read_state, write_durably
from megatron_ar3po.stop_request import StopRequest
from megatron_ar3po.trainer import Ar3poTrainer
from megatron_ar3po.types import Prompt, SamplingParams, TrainingBatch

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Language:
    """What turns text into tokens and tokens into rewards."""

    stop_token_ids: tuple[int, ...]
    vocab_size: int
    verifier: Verifier
    decode: object
    training: list[Prompt]
    held_out: list[Prompt]


def train(config: Config, ranks: Ranks, stack: ExitStack, stop: StopRequest) -> RunState:
    """Collective over all ranks: the whole run. Writes RUN/DONE or RUN/STOPPED at its end."""
    started = time.monotonic()
    folder = config.run.path
    checkpoint = ranks.run_on_first(lambda: open_run_folder(config))
    setup_logging(ranks.layout, config.observability.log_level, folder=folder)
    for line in warnings_of(config):
        logger.warning("%s", line)
    servers = start_servers(config, ranks, stack)
    trainer = build_trainer(config, ranks, stack, stop, servers)
    if checkpoint is not None:
        resume(trainer, checkpoint)
    logger.info("ready after %.0f s: %s", time.monotonic() - started, ranks.layout.describe())
    stack.callback(trainer.progress.stop)
    state = trainer.run()
    is_done = state.step >= config.run.num_steps
    ranks.run_on_first(lambda: mark_end(folder, state, is_done=is_done, reason=stop.reason))
    return state


def open_run_folder(config: Config) -> Path | None:
    """Makes RUN, or finds the checkpoint to go on from. Rank 0 only."""
    folder = config.run.path
    checkpoint = CheckpointFolder(folder / "checkpoints", keep_last=1).latest()
    if not config.run.resume and (folder / "resolved_config.yaml").exists():
        raise ValueError(
            f"run.dir={folder} already holds a run; set run.resume=true to go on with it, or choose another run.name "
            "or run.dir."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for marker in ("DONE", "STOPPED"):
        (folder / marker).unlink(missing_ok=True)
    write_durably(folder / "resolved_config.yaml", to_yaml(config))
    if config.run.resume:
        step = read_state(checkpoint).step if checkpoint else 0
        drop_rows_after(folder, step if checkpoint else -1)
    return checkpoint


def resume(trainer: Ar3poTrainer, checkpoint: Path) -> None:
    """Collective: everything stands where `checkpoint` left it."""
    state = read_state(checkpoint)
    trainer.actor.load(checkpoint / "model")
    trainer.prompts.restore(state.prompt_cursor)
    trainer.ranks.run_on_leader(lambda: trainer.store.rollback(state.store_cursor))
    trainer.metrics.totals.update(state.totals)
    trainer.state = state
    logger.info("resumed from %s (step %d, policy version %d)", checkpoint, state.step, state.policy_version)


def mark_end(folder: Path, state: RunState, *, is_done: bool, reason: str) -> None:
    content = {"step": state.step, "policy_version": state.policy_version, "reason": reason}
    write_durably(folder / ("DONE" if is_done else "STOPPED"), json.dumps(content) + "\n")


def load_language(config: Config, ranks: Ranks, stack: ExitStack) -> Language:
    tokenizer = load_tokenizer(config.model.path)
    vocab_size = model_vocab_size(config.model.path)
    verifier = make_verifier(
        config.rewards, tokenizer, max_response_tokens=config.rollout.max_response_tokens
    )
    stack.callback(verifier.close)

    def prompts(path: str) -> list[Prompt]:
        return load_prompts(
            path, tokenizer, config.data, verifier_version=verifier.version, vocab_size=vocab_size
        )

    return Language(
        stop_token_ids=stop_token_ids(config.model.path, tokenizer, config.rollout.extra_stop_token_ids),
        vocab_size=vocab_size,
        verifier=verifier,
        decode=tokenizer.decode,
        training=prompts(config.data.path),
        held_out=prompts(config.evaluation.path) if config.evaluation.path else [],
    )


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


def open_store(config: Config, ranks: Ranks, stack: ExitStack) -> ReuseShard:
    """Leaders open their shard; the other ranks hold a store that nothing calls."""

    def opened() -> None:
        nonlocal store
        layout = ranks.layout
        store = ReuseStore.open(
            config.run.path / "reuse",
            dp_rank=layout.dp_rank,
            dp_size=layout.data_parallel_size,
            config=config.reuse,
            run_seed=config.run.seed,
            fingerprint=fingerprint_of(config),
            sampler={"temperature": config.rollout.temperature, "top_p": config.rollout.top_p},
        )

    store: ReuseShard = NullStore()
    if config.reuse.enabled:
        ranks.run_on_leader(opened)
    stack.callback(store.close)
    return store


def replay(config: Config, ranks: Ranks, stack: ExitStack) -> None:
    """debug.mode=train_only: one dumped step through the actor at this layout, no server. Prints and writes
    RUN/replay.json: loss, gradient norm and a fingerprint of the weights before and after."""
    from megatron_ar3po.actor.megatron_actor import MegatronActor  # slow to import

    setup_logging(ranks.layout, config.observability.log_level)
    actor = MegatronActor(config, ranks.layout)
    builder = BatchBuilder(ranks, config.algorithm, config.actor)
    batch = builder.build_from_all(load_samples(Path(config.debug.replay_path)))
    before = weights_fingerprint(actor, ranks)
    batch = actor.compute_logprobs(batch)
    stats = [actor.update(mini_batch) for mini_batch in batch.mini_batches]
    facts = {
        "layout": ranks.layout.describe(),
        "loss": [s.loss for s in stats],
        "grad_norm": [s.grad_norm for s in stats],
        "weights_before": before,
        "weights_after": weights_fingerprint(actor, ranks),
        "samples": batch.num_samples,
        "tokens": batch.num_tokens,
    }
    if ranks.is_first:
        config.run.path.mkdir(parents=True, exist_ok=True)
        write_durably(config.run.path / "replay.json", json.dumps(facts, indent=1))
        print(json.dumps(facts), flush=True)


def weights_fingerprint(actor: Actor, ranks: Ranks) -> list[float]:
    """(sum, sum of absolute values) over all weights, in float64; the same on every rank."""
    sums = torch.zeros(2, dtype=torch.float64)
    for bucket in actor.hf_buckets(64 * 1024 * 1024):
        for _, tensor in bucket:
            values = tensor.double()
            sums += torch.stack([values.sum(), values.abs().sum()]).cpu()
    return ranks.broadcast(sums.tolist())
