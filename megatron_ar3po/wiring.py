"""Config -> parts -> trainer. The one place that names concrete classes, and where rooms that do not know each other
are introduced. Everything that must be ended is put on the caller's ExitStack the moment it is started.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from megatron_ar3po.algorithm.custom import check_custom_functions
from megatron_ar3po.colocation import ColocatedGpus, Colocation, SharedHostMemory
from megatron_ar3po.config.load import to_yaml
from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.validate import read_model_config, warnings_of
from megatron_ar3po.data.batch_builder import BatchBuilder
from megatron_ar3po.data.dataset import load_prompts
from megatron_ar3po.data.dump import load_samples
from megatron_ar3po.data.prompt_source import PromptSource
from megatron_ar3po.data.tokenizer import load_tokenizer, model_vocab_size, stop_token_ids
from megatron_ar3po.distributed.collectives import PeerError, Ranks
from megatron_ar3po.evaluation import Evaluator
from megatron_ar3po.frozen_policy import FrozenActor, FrozenPublisher
from megatron_ar3po.interfaces import Actor, ReuseShard, StepSampler, Verifier, WeightPublisher
from megatron_ar3po.observability.metrics import Metrics, drop_rows_after
from megatron_ar3po.observability.progress import RunProgress
from megatron_ar3po.observability.rank_logging import setup_logging
from megatron_ar3po.observability.rollout_recorder import RolloutRecorder
from megatron_ar3po.reuse.database import Fingerprint
from megatron_ar3po.reuse.store import NullStore, ReuseStore
from megatron_ar3po.rewards.ground_truths import check_ground_truths
from megatron_ar3po.rewards.verifier import make_verifier, verifier_version
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.rollout.history import PromptHistory
from megatron_ar3po.rollout.ledger import Ledger, server_books
from megatron_ar3po.rollout.ledger_file import abandon_rows_after, rows_of_run
from megatron_ar3po.rollout.placement import server_places
from megatron_ar3po.rollout.ports import HOST
from megatron_ar3po.rollout.routed_engine import RoutedEngine
from megatron_ar3po.rollout.router import GlobalRouter, RouterControl, check_router_installed
from megatron_ar3po.rollout.server_control import ServerControl
from megatron_ar3po.rollout.sglang_client import Process, ServerUsage, SglangEngine
from megatron_ar3po.rollout.sglang_server import SglangServer
from megatron_ar3po.rollout.stage_plans import make_stage_rule
from megatron_ar3po.rollout.step_sampler import DynamicSampler, FixedSampler
from megatron_ar3po.run_state import CheckpointFolder, RunState, read_state, write_durably
from megatron_ar3po.stop_request import StopRequest
from megatron_ar3po.trainer import Ar3poTrainer
from megatron_ar3po.types import Prompt, SamplingParams, ScoredResponse

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Language:
    """What turns text into tokens and tokens into rewards."""

    stop_token_ids: tuple[int, ...]
    vocab_size: int
    verifier: Verifier | None  # on leaders: only they sample
    decode: Callable[[Sequence[int]], str]
    training: list[Prompt]
    held_out: list[Prompt]


def train(config: Config, ranks: Ranks, stack: ExitStack, stop: StopRequest) -> RunState:
    """Collective over all ranks: the whole run. Writes RUN/DONE or RUN/STOPPED at its end."""
    started = time.monotonic()
    check_custom_functions(config.algorithm)
    make_stage_rule(config.rollout, PromptHistory())  # a user's own is imported now
    check_routing(config, ranks)
    folder = config.run.path
    checkpoint = ranks.run_on_first(lambda: open_run_folder(config))
    setup_logging(ranks.layout, config.observability.log_level, folder=folder)
    for line in warnings_of(config):
        logger.warning("%s", line)
    servers = start_servers(config, ranks, stack)
    trainer = build_trainer(config, ranks, stack, stop, servers)
    if checkpoint is not None:
        resume(trainer, checkpoint)
    elif config.run.resume:
        # Killed before its first checkpoint: the store may have seen steps that are now done again.
        ranks.run_on_leader(lambda: trainer.store.rollback({}))
    logger.info("ready after %.0f s: %s", time.monotonic() - started, ranks.layout.describe())
    stack.callback(trainer.progress.stop)
    state = trainer.run()
    is_done = state.step >= config.run.num_steps
    if is_done and config.checkpoint.export_hf:
        trainer.actor.export_hf(folder / "hf")
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
        step = read_state(checkpoint).step if checkpoint else -1
        for written in ("metrics.jsonl", "rollouts.jsonl"):
            drop_rows_after(folder / written, step)
        for written in folder.glob("ledger/*.jsonl"):
            abandon_rows_after(written, step)  # what was done twice has cost twice
        if not checkpoint:
            logger.info("run.resume=true, but %s holds no checkpoint: starting anew", folder)
    return checkpoint


def resume(trainer: Ar3poTrainer, checkpoint: Path) -> None:
    """Collective: everything stands where `checkpoint` left it."""
    state = read_state(checkpoint)
    trainer.actor.load(checkpoint / "model")
    trainer.prompts.restore(state.prompt_cursor)
    trainer.ranks.run_on_leader(lambda: trainer.store.rollback(state.store_cursor))
    trainer.metrics.totals.update(state.totals)
    trainer.state = state
    logger.info(
        "resumed from %s (step %d, policy version %d)", checkpoint, state.step, state.policy_version
    )


def mark_end(folder: Path, state: RunState, *, is_done: bool, reason: str) -> None:
    content = {"step": state.step, "policy_version": state.policy_version, "reason": reason}
    write_durably(folder / ("DONE" if is_done else "STOPPED"), json.dumps(content) + "\n")


def start_servers(config: Config, ranks: Ranks, stack: ExitStack) -> list[SglangServer]:
    """Leaders start their replica's servers and return at once; the other ranks hold none."""

    def started() -> int:
        places = server_places(
            ranks.layout,
            servers_per_replica=config.rollout.servers_per_replica,
            gpus=visible_gpus(),
            ranks_per_node=int(os.environ.get("LOCAL_WORLD_SIZE", ranks.layout.world_size)),
        )
        for place in places:
            server = SglangServer(
                config.rollout,
                place,
                model_path=config.model.path,
                dtype=config.model.dtype,
                log_dir=config.run.path / "logs",
            )
            server.start()
            stack.callback(server.stop)
            servers.append(server)
        return len(places)

    servers: list[SglangServer] = []
    ranks.run_on_leader(started)
    return servers


def visible_gpus() -> list[str]:
    if not torch.cuda.is_available():
        return []
    stated = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return stated.split(",") if stated else [str(i) for i in range(torch.cuda.device_count())]


def build_trainer(
    config: Config, ranks: Ranks, stack: ExitStack, stop: StopRequest, servers: list[SglangServer]
) -> Ar3poTrainer:
    """Collective. Loads data and model while the servers start, then waits for them."""
    language = load_language(config, ranks, stack)
    prompts = PromptSource(language.training, seed=config.run.seed, shuffle=config.data.shuffle)
    store = open_store(config, ranks, stack)
    actor, publisher = build_policy(config, ranks, stack, servers)
    ranks.run_on_leader(lambda: wait_for(servers))
    router_url = start_router(config, ranks, stack, servers)
    controller, ledger = build_controller(config, ranks, stack, language, servers, router_url)
    folder = config.run.path
    metrics = Metrics(ranks, folder, tensorboard=config.observability.tensorboard)
    stack.callback(metrics.close)
    return Ar3poTrainer(
        config=config,
        ranks=ranks,
        prompts=prompts,
        sampler=build_sampler(config, ranks, prompts, controller, ledger),
        store=store,
        batch_builder=BatchBuilder(ranks, config.algorithm, config.actor),
        actor=actor,
        weight_publisher=publisher,
        colocation=build_colocation(config, ranks, actor, servers),
        evaluator=build_evaluator(config, ranks, language, controller, ledger),
        metrics=metrics,
        recorder=RolloutRecorder(
            folder / "rollouts.jsonl",
            language.decode,
            num_groups=config.observability.record_groups_per_step,
            every_steps=config.observability.record_every_steps,
        ),
        checkpoints=CheckpointFolder(folder / "checkpoints", keep_last=config.checkpoint.keep_last),
        stop=stop,
        progress=RunProgress(
            config.run.num_steps, config.run.progress, is_silent=not ranks.is_first
        ),
        state=RunState(),
    )


def build_policy(
    config: Config, ranks: Ranks, stack: ExitStack, servers: list[SglangServer]
) -> tuple[Actor, WeightPublisher]:
    """Collective: the Megatron actor and the way its weights take to the servers."""
    if config.debug.mode == "rollout_only":
        return FrozenActor(), FrozenPublisher(ranks, server_control(config, servers).stamp)
    from megatron_ar3po.actor.megatron_actor import MegatronActor  # slow to import
    from megatron_ar3po.weight_sync.publisher import ServerPublisher
    from megatron_ar3po.weight_sync.transport import make_transport

    actor = MegatronActor(config, ranks.layout)
    server_tp = servers[0].tensor_parallel_size if servers else 1
    sync_folder = Path(config.weight_sync.disk_dir or config.run.path / "weight_sync")
    publisher = ServerPublisher(
        actor=actor,
        ranks=ranks,
        servers=lambda: [server.url for server in servers],
        config=config.weight_sync,
        server_tp=server_tp,
        transport=make_transport(
            config.weight_sync,
            server_tp=server_tp,
            model_path=Path(config.model.path),
            folder=sync_folder / f"dp{ranks.layout.dp_rank:02d}",
        ),
    )
    stack.callback(publisher.close)
    ranks.offer("republish", publisher.republish)
    return actor, publisher


def wait_for(servers: list[SglangServer]) -> None:
    for server in servers:
        seconds = server.wait_ready()
        logger.info("server %s is ready at %s after %.0f s", server.name, server.url, seconds)


def build_controller(
    config: Config,
    ranks: Ranks,
    stack: ExitStack,
    language: Language,
    servers: list[SglangServer],
    router_url: str,
) -> tuple[RolloutController | None, Ledger | None]:
    """On leaders; the other ranks have no servers to talk to and no costs to write down."""
    if not ranks.is_leader:
        return None, None
    assert language.verifier is not None, "leaders hold a verifier"
    engine = build_engine(config, ranks, language, servers, router_url)
    shape = read_model_config(config.model.path)
    history = PromptHistory(decay=config.rollout.history_decay)
    history.replay(rows_of_run(config.run.path / "ledger"))
    controller = RolloutController(
        engine,
        language.verifier,
        config.rollout,
        run_seed=config.run.seed,
        stop_token_ids=language.stop_token_ids,
        max_context_tokens=shape["max_position_embeddings"],
        vocab_size=language.vocab_size,
        kv_tokens=sum(server.kv_tokens() for server in servers),
        history=history,
    )
    stack.callback(controller.close)
    path = config.run.path / "ledger" / f"dp{ranks.layout.dp_rank:02d}.jsonl"
    if config.rollout.routing == "local":
        return controller, Ledger(path, lambda: server_books(engine))
    ledger = Ledger(
        path,
        lambda: server_books(engine, usage_of_all(engine, ranks)),
        seen=lambda: sum(engine.usage.values(), ServerUsage()),
    )
    return controller, ledger


def usage_of_all(engine: SglangEngine, ranks: Ranks) -> list[dict[Process, ServerUsage]]:
    """Collective over leaders, when their rollouts have ended: what each was answered, by whom."""
    answers: list[Any] = ranks.gather_over_replicas(dict(engine.usage))
    for replica, answer in enumerate(answers):
        if isinstance(answer, str):
            raise PeerError(f"the rollout of replica {replica} failed: {answer}")
    return answers


def build_engine(
    config: Config, ranks: Ranks, language: Language, servers: list[SglangServer], router_url: str
) -> SglangEngine:
    """Collective over leaders with `rollout.routing=global`."""
    if config.rollout.routing == "local":
        return SglangEngine(
            servers,
            config.rollout,
            vocab_size=language.vocab_size,
            on_server_lost=lambda server: revive(server, ranks),
        )
    urls = ranks.gather_over_replicas([server.url for server in servers])
    return RoutedEngine(
        servers,
        config.rollout,
        vocab_size=language.vocab_size,
        router_url=router_url,
        client=f"dp{ranks.layout.dp_rank}",
        all_urls=[url for replica in urls for url in replica],
        on_server_lost=lambda server: revive(server, ranks, RouterControl(router_url)),
    )


def start_router(
    config: Config, ranks: Ranks, stack: ExitStack, servers: list[SglangServer]
) -> str:
    """Collective. The router's URL on every rank; empty with `rollout.routing=local`. The servers are ready."""
    if config.rollout.routing == "local":
        return ""
    per_replica = ranks.gather([server.url for server in servers])

    def started() -> str:
        router = GlobalRouter(
            [url for urls in per_replica for url in urls],
            log_path=config.run.path / "logs" / "router.log",
            request_timeout_s=config.rollout.request_timeout_s,
        )
        stack.callback(router.stop)
        router.start()
        return router.url

    return ranks.run_on_first(started)


def check_routing(config: Config, ranks: Ranks) -> None:
    """Before anything starts."""
    if config.rollout.routing == "local":
        return
    check_router_installed()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.layout.world_size))
    if local < ranks.layout.world_size:
        raise ValueError(
            f"rollout.routing=global puts one router in front of servers that listen on {HOST} only, but the run has "
            f"{ranks.layout.world_size} ranks of which {local} are on this node; use rollout.routing=local."
        )


def revive(server: SglangServer, ranks: Ranks, router: RouterControl | None = None) -> None:
    """A fresh process with the weights every other server of the replica has. The ranks of the replica help. A router
    must not see it before it holds them."""
    if router is not None:
        router.remove(server.url)
    server.restart()
    ranks.call_in_replica("republish", server.url)
    if router is not None:
        router.add(server.url)


def build_sampler(
    config: Config,
    ranks: Ranks,
    prompts: PromptSource,
    controller: RolloutController | None,
    ledger: Ledger | None,
) -> StepSampler:
    collector = cast("RolloutController", controller)  # only leaders call a sampler
    if not config.algorithm.dynamic_sampling:
        return FixedSampler(
            collector,
            prompts.next_batch,
            layout=ranks.layout,
            prompts_per_step=config.rollout.prompts_per_step,
            ledger=ledger,
            tell_failure=ranks.gather_over_replicas
            if config.rollout.routing == "global"
            else lambda text: None,
        )
    return DynamicSampler(
        collector,
        prompts.next_batch,
        layout=ranks.layout,
        prompts_per_step=config.rollout.prompts_per_step,
        max_rounds=config.algorithm.max_sampling_rounds,
        gather_over_replicas=ranks.gather_over_replicas,
        ledger=ledger,
    )


def build_evaluator(
    config: Config,
    ranks: Ranks,
    language: Language,
    controller: RolloutController | None,
    ledger: Ledger | None,
) -> Evaluator:
    def sample(
        prompts: Sequence[Prompt], num_samples: int, sampling: SamplingParams, policy_version: int
    ) -> list[list[ScoredResponse]]:
        assert controller is not None and ledger is not None, "only leaders evaluate"
        answers = controller.sample(
            prompts,
            num_samples=num_samples,
            sampling=sampling,
            seed_key="eval",
            policy_version=policy_version,
        )
        ledger.record_evaluation(answers, policy_version=policy_version)
        return answers

    sampling = SamplingParams(
        temperature=config.evaluation.temperature,
        top_p=config.evaluation.top_p,
        max_response_tokens=config.rollout.max_response_tokens,
        stop_token_ids=language.stop_token_ids,
    )
    return Evaluator(language.held_out, sample, ranks, config.evaluation, sampling)


def build_colocation(
    config: Config, ranks: Ranks, actor: Actor, servers: list[SglangServer]
) -> Colocation:
    if not torch.cuda.is_available():
        return SharedHostMemory()
    return ColocatedGpus(actor, server_control(config, servers), ranks.run_on_leader)


def server_control(config: Config, servers: list[SglangServer]) -> ServerControl:
    return ServerControl(
        lambda: [server.url for server in servers], timeout_s=config.weight_sync.timeout_s
    )


def load_language(config: Config, ranks: Ranks, stack: ExitStack) -> Language:
    tokenizer = load_tokenizer(config.model.path)
    vocab_size = model_vocab_size(config.model.path)

    def start_verifier() -> None:
        nonlocal verifier
        verifier = make_verifier(
            config.rewards,
            cast("Any", tokenizer),
            max_response_tokens=config.rollout.max_response_tokens,
        )
        stack.callback(verifier.close)

    def prompts(path: str) -> list[Prompt]:
        return load_prompts(
            path,
            tokenizer,
            config.data,
            verifier_version=verifier_version(config.rewards),
            vocab_size=vocab_size,
            check_answers=lambda answers: ranks.run_on_first(
                lambda: check_ground_truths(answers, config.rewards)
            ),
        )

    verifier: Verifier | None = None
    ranks.run_on_leader(start_verifier)

    return Language(
        stop_token_ids=stop_token_ids(
            config.model.path, tokenizer, config.rollout.extra_stop_token_ids
        ),
        vocab_size=vocab_size,
        verifier=verifier,
        decode=lambda token_ids: str(tokenizer.decode(list(token_ids))),
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
    RUN/replay.json: loss, gradient norm, token means and a fingerprint of the weights before and after."""
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
        "metrics": [{name: total / n for name, (total, n) in s.sums.items() if n} for s in stats],
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
