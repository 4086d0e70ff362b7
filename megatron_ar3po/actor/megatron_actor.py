"""`MegatronActor`: the policy and its optimizer on this rank. See interfaces.Actor for who calls what."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_ar3po.actor import checkpoint, groups
from megatron_ar3po.actor.background_save import SavedTogether
from megatron_ar3po.actor.buffer_memory import BufferMemory, give_back_freed_memory
from megatron_ar3po.actor.forward_step import rank_slice, run_schedule
from megatron_ar3po.actor.hf_export import hf_buckets
from megatron_ar3po.actor.hf_import import load_hf_weights
from megatron_ar3po.actor.model import PolicyModel, build_model, initialize_megatron
from megatron_ar3po.actor.optimizer import Optimizer, wrap_for_training
from megatron_ar3po.actor.optimizer_offload import OptimizerOffload
from megatron_ar3po.actor.reference_policy import ReferencePolicy
from megatron_ar3po.algorithm.kl import sequence_kl
from megatron_ar3po.algorithm.policy_loss import PolicyLoss, policy_loss
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.hf_folder import write_hf_folder
from megatron_ar3po.interfaces import PendingSave
from megatron_ar3po.model_shape import read_policy_shape
from megatron_ar3po.platform.determinism import use_deterministic_kernels
from megatron_ar3po.records import Max, Mean, Records, merge_records
from megatron_ar3po.types import MicroBatch, MiniBatch, RowKey, TrainingBatch
from megatron_ar3po.update_stats import LoanOutcome, UpdateStats, tell_loan

T = TypeVar("T")

_EXPORT_FILE_BYTES = 4 * 1024**3


class MegatronActor:
    """Weights from `model.path`, or from `model.megatron_path`; collective over all ranks to build."""

    def __init__(self, config: Config, layout: ParallelLayout) -> None:
        self.config, self.layout = config, layout
        shape = read_policy_shape(config.model.path)
        shape.check_layout(layout)
        initialize_megatron(layout, config.run.seed, config.run.collective_timeout_s)
        if config.run.deterministic:
            use_deterministic_kernels()
        policy = build_model(
            shape,
            layout,
            config.actor,
            getattr(torch, config.model.dtype),
            is_deterministic=config.run.deterministic,
        )
        self._load_together(policy)
        self.policy: PolicyModel = policy.cuda() if torch.cuda.is_available() else policy
        self.model = wrap_for_training(self.policy, config.actor)
        self._buffers = BufferMemory(cast(Any, self.model).buffers)
        total_steps = config.run.num_steps * config.algorithm.updates_per_step
        self.optimizer = Optimizer(self.model, config.actor, total_steps)
        self.optimizer_offload = OptimizerOffload(self.policy, self.optimizer)
        self.reference = ReferencePolicy(self.policy) if config.algorithm.kl_coef != 0 else None

    def _load_together(self, policy: PolicyModel) -> None:
        """A value that is not finite lies in one rank's shard: all ranks must learn of it before they go on."""
        problem = None
        try:
            if self.config.model.megatron_path:
                checkpoint.load_weights(Path(self.config.model.megatron_path), policy)
            else:
                load_hf_weights(policy, Path(self.config.model.path))
        except ValueError as error:
            problem = str(error)
        if found := [text for text in self._gather_from_all_ranks(problem) if text is not None]:
            raise ValueError(found[0])

    def compute_logprobs(self, batch: TrainingBatch) -> TrainingBatch:
        with_old = batch.with_old_logprobs(self._forward_logprobs(batch.needs_pass))
        if self.reference is None:
            return with_old
        with self.reference.swapped_in():
            return with_old.with_reference_logprobs(self._forward_logprobs(batch.micro_batches))

    def reference_kl(self, batch: TrainingBatch) -> dict[RowKey, float]:
        estimator, mine = self.config.algorithm.kl_estimator, {}
        if self.layout.is_last_stage and self.layout.tp_rank == 0:
            for micro_batch in batch.micro_batches:
                sums = sequence_kl(micro_batch, estimator).tolist()
                mine |= dict(
                    zip(micro_batch.row_keys, sums, strict=False)
                )  # a dummy row has no key
        return {key: kl for part in self._gather_from_all_ranks(mine) for key, kl in part.items()}

    def refresh_reference(self) -> None:
        """Where a step has trained nothing the actor is still parked."""
        if self.reference is not None:
            with self._weights_on_device():
                self.reference.refresh()

    def update(self, mini_batch: MiniBatch, *, entropy_coef: float | None = None) -> UpdateStats:
        algorithm = self.config.algorithm
        if entropy_coef is not None:
            algorithm = replace(algorithm, entropy_coef=entropy_coef)
        self.model.zero_grad_buffer()
        self.optimizer.inner.zero_grad()
        losses = run_schedule(
            self.model,
            mini_batch.micro_batches,
            partial(self._loss, algorithm=algorithm),
            forward_only=False,
        )
        totals = self._totals(losses)
        self.optimizer_offload.wait()
        step = self.optimizer.step(totals.loss)
        return UpdateStats(
            loss=totals.loss,
            grad_norm=step.grad_norm,
            learning_rate=step.learning_rate,
            was_skipped=step.was_skipped,
            token_records=totals.records,
            loans=self._loans(losses, mini_batch, was_skipped=step.was_skipped),
        )

    def hf_buckets(
        self, max_bytes: int, *, on_every_rank: bool = False
    ) -> Iterator[Sequence[tuple[str, Tensor]]]:
        with self._weights_on_device():
            yield from hf_buckets(self.policy, self.layout, max_bytes, on_every_rank=on_every_rank)

    def export_hf(self, folder: Path) -> None:
        """Collective over all ranks; the leader of replica 0 writes `folder` as a Hugging Face checkpoint of the
        dtype it trains in."""
        buckets = self.hf_buckets(_EXPORT_FILE_BYTES)
        if self.layout.dp_rank == 0:
            write_hf_folder(buckets, source=Path(self.config.model.path), target=folder)

    def save(self, folder: Path) -> PendingSave:
        self.optimizer_offload.wait()
        saves = [checkpoint.save(folder, self.policy, self.optimizer)]
        if self.reference is not None:
            saves += self.reference.save(folder)
        return SavedTogether(folder, saves)

    def load(self, folder: Path) -> None:
        self.optimizer_offload.wait()
        checkpoint.load(folder, self.policy, self.optimizer)
        if self.reference is not None:
            self.reference.load(folder)

    @property
    def held(self) -> frozenset[str]:
        parts = {
            "weights": self._buffers.has_weights,
            "gradients": self._buffers.has_gradients,
            "optimizer": not self.optimizer_offload.is_offloaded,
        }
        return frozenset(name for name, is_there in parts.items() if is_there)

    def offload(self, *, keep_weights: bool = False) -> None:
        with self.optimizer_offload.offload():
            self._buffers.hold(weights=keep_weights, gradients=False)
        give_back_freed_memory()

    def onload(self, *, gradients: bool = True) -> None:
        """Weights first: the optimizer's state arrives while a forward pass runs already."""
        self._buffers.hold(weights=True, gradients=gradients)
        self.optimizer_offload.onload()

    @contextlib.contextmanager
    def _weights_on_device(self) -> Iterator[None]:
        """For those who ask for weights while they are parked: a server that is revived in a rollout. What it took to
        give them goes with them, or the next server that starts would find less."""
        memory, had_weights = self._buffers, self._buffers.has_weights
        memory.hold(weights=True, gradients=memory.has_gradients)
        try:
            yield
        finally:
            memory.hold(weights=had_weights, gradients=memory.has_gradients)
            if not had_weights:
                give_back_freed_memory()

    def _forward_logprobs(self, micro_batches: Sequence[MicroBatch]) -> list[Tensor | None]:
        """One [T] tensor per micro-batch on the last stage, None on the others."""
        if not micro_batches:
            return []

        def keep_logprobs(
            hidden: Tensor,  # [T, 1, H]; [T / tp, 1, H] if sequence parallel
            micro_batch: MicroBatch,
        ) -> tuple[Tensor, Tensor]:
            logprobs, _ = self._token_logprobs(hidden, micro_batch, with_entropy=False)
            return logprobs.sum(), logprobs

        with torch.no_grad():
            kept = run_schedule(self.model, micro_batches, keep_logprobs, forward_only=True)
        if not self.layout.is_last_stage:
            return [None] * len(micro_batches)
        return [self._gather_context(x, m) for x, m in zip(kept, micro_batches, strict=True)]

    def _gather_context(self, values: Tensor, micro_batch: MicroBatch) -> Tensor:
        """[T] of the micro-batch, from what this rank computed of it (`rank_slice`). Collective over the context."""
        mine = rank_slice(self.policy, micro_batch)
        whole = mine.to(values.device).scatter(values)
        if self.layout.context_parallel_size > 1:
            dist.all_reduce(whole, group=groups.context_parallel())
        return whole

    def _token_logprobs(
        self,
        hidden: Tensor,  # [T, 1, H]; [T / tp, 1, H] if sequence parallel
        micro_batch: MicroBatch,
        *,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        return self.policy.token_logprobs(
            hidden,
            micro_batch,
            temperature=self.config.rollout.temperature,
            chunk_tokens=self.config.actor.logprob_chunk_tokens,
            with_entropy=with_entropy,
        )

    def _loss(
        self,
        hidden: Tensor,  # [T, 1, H]; [T / tp, 1, H] if sequence parallel
        micro_batch: MicroBatch,
        algorithm: AlgorithmConfig | None = None,
    ) -> tuple[Tensor, PolicyLoss]:
        algorithm = algorithm or self.config.algorithm
        is_asked = algorithm.entropy_coef != 0 or algorithm.entropy_target > 0
        with_entropy = is_asked or self.config.actor.measure_entropy
        logprobs, entropy = self._token_logprobs(hidden, micro_batch, with_entropy=with_entropy)
        if entropy is not None and algorithm.entropy_coef == 0:
            entropy = entropy.detach()  # measured only: its gradient would cost a second pass
        result = policy_loss(
            logprobs,
            micro_batch,
            algorithm,
            entropy=entropy,
            reference_logprobs=micro_batch.reference_logprobs,
        )
        return result.loss, result

    def _totals(self, losses: Sequence[PolicyLoss]) -> _Totals:
        """One collective over all ranks; the last stage's first TP rank of each replica speaks."""
        mine = None
        if self.layout.is_last_stage and self.layout.tp_rank == 0:
            mine = _Totals.over_micro_batches(losses)
        return _Totals.merge([t for t in self._gather_from_all_ranks(mine) if t is not None])

    def _loans(
        self, losses: Sequence[PolicyLoss], mini_batch: MiniBatch, *, was_skipped: bool
    ) -> tuple[LoanOutcome, ...]:
        """How the borrowed responses of this mini-batch trained, on every rank; no collective where there are none. A
        skipped update trained none of them: what it still tells is how far they had drifted."""
        borrowed = [sample for sample in mini_batch.samples if sample.origin == "reused"]
        if not borrowed:
            return ()
        mine: list[tuple[RowKey, list[float]]] = []
        if self.layout.is_last_stage and self.layout.tp_rank == 0:
            for result, micro_batch in zip(losses, mini_batch.micro_batches, strict=True):
                rows = result.borrowed_rows.tolist()
                keyed = zip(micro_batch.row_keys, rows, strict=False)  # a dummy row has no key
                mine += [(key, row) for key, row in keyed if row[0]]
        sums: dict[RowKey, list[float]] = {}
        for key, row in (pair for part in self._gather_from_all_ranks(mine) for pair in part):
            before = sums.get(key, [0.0] * len(row))  # a context-parallel rank has a part of it
            sums[key] = [a + b for a, b in zip(before, row, strict=True)]
        is_own = mini_batch.old_logprobs_from == "update"
        told = (
            tell_loan(s, sums[s.row_key], measures_drift=is_own, was_skipped=was_skipped)
            for s in borrowed
        )
        return tuple(outcome for outcome in told if outcome is not None)

    def _gather_from_all_ranks(self, mine: T) -> list[T]:
        everyone = [mine]
        if self.layout.world_size > 1:
            everyone = [mine] * self.layout.world_size
            dist.all_gather_object(everyone, mine)
        return everyone


@dataclass(frozen=True)
class _Totals:
    loss: float
    records: Records  # over the response tokens; what no token has is left out

    @classmethod
    def over_micro_batches(cls, losses: Sequence[PolicyLoss]) -> _Totals:
        """One transfer from the accelerator for all numbers."""
        sums, maxima = list(losses[0].sums), list(losses[0].maxima)
        rows = [
            torch.stack(
                [
                    r.loss.detach(),
                    *(x for n in sums for x in r.sums[n]),
                    *(r.maxima[n] for n in maxima),
                ]
            )
            for r in losses
        ]
        table = torch.stack(rows).double()
        cut = 1 + 2 * len(sums)
        totals = torch.cat([table[:, :cut].sum(0), table[:, cut:].amax(0)]).tolist()
        pairs = zip(totals[1:cut:2], totals[2:cut:2], strict=True)
        records = Records(zip(maxima, map(Max, totals[cut:]), strict=True))
        for name, (total, count) in zip(sums, pairs, strict=True):
            if count:
                records.add(name, Mean(total / count, count))
        return cls(totals[0], records)

    @classmethod
    def merge(cls, parts: Sequence[_Totals]) -> _Totals:
        return cls(sum(p.loss for p in parts), merge_records(*(p.records for p in parts)))
