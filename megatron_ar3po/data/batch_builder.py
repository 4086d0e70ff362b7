"""samples -> batch: the step's samples of all replicas become this data-parallel rank's packed micro-batches.

Samples move between replicas here to even out tokens; the plan is a pure function of the step's samples, so every rank
makes the same one. The loss's denominator is fixed here as well, over the whole optimizer step and all ranks, and
stands in each token's weight: the loss is then a plain sum, whatever the split. So is where the old log-probs of a
mini-batch come from.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from megatron_ar3po.algorithm.aggregation import ResponseUnits, response_units, token_weights
from megatron_ar3po.algorithm.old_logprobs import source_of_old_logprobs
from megatron_ar3po.config.actor import ActorConfig
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.data.packing import plan_micro_batches
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.types import (
    MicroBatch,
    MiniBatch,
    ResponseGroup,
    TrainingBatch,
    TrainingSample,
)


class BatchBuilder:
    def __init__(
        self,
        ranks: Ranks,
        algorithm: AlgorithmConfig,
        actor: ActorConfig,
        reuse: ReuseConfig,
    ) -> None:
        self._ranks = ranks
        self._algorithm = algorithm
        self._reuse = reuse
        self._max_tokens = actor.max_tokens_per_microbatch

    def build(
        self, samples: Sequence[TrainingSample], groups: Sequence[ResponseGroup]
    ) -> TrainingBatch:
        """Collective over all ranks. `samples`, made of `groups`: those of this replica, the same on each of its
        ranks."""
        samples = self.gather(samples)
        units = self._units(groups)
        check_row_keys(samples)
        layout = self._ranks.layout
        minis = []
        passes = [
            split_by_group(in_order_of_pass(samples, number), self._algorithm.num_mini_batches)
            for number in range(self._algorithm.num_epochs)
        ]
        num_parts = len(passes[0])
        for index, part in enumerate(part for of_pass in passes for part in of_pass):
            source = source_of_old_logprobs(index, part, self._algorithm, self._reuse)
            weights, num_units = token_weights(
                part, self._algorithm.loss_aggregation, units=units, num_parts=num_parts
            )
            plan = plan_micro_batches(
                [s.num_tokens for s in part],
                max_tokens=self._max_tokens,
                data_parallel_size=layout.data_parallel_size,
            )[layout.dp_rank]
            packed = [
                pack([part[i] for i in bin_], [float(weights[i]) for i in bin_]) for bin_ in plan
            ]
            micro = tuple(replace(mb, old_logprobs_from=source) for mb in packed)
            minis.append(
                MiniBatch(
                    micro_batches=micro,
                    num_units=num_units,
                    num_sequences=len(part),
                    samples=tuple(part),
                )
            )
        return TrainingBatch(
            mini_batches=tuple(minis),
            num_samples=len(samples),
            num_tokens=sum(s.num_tokens for s in samples),
        )

    def _units(self, groups: Sequence[ResponseGroup]) -> ResponseUnits | None:
        """Of the whole step, over all replicas; None where the samples' own rule."""
        if self._algorithm.denominator == "kept":
            return None
        parts = self._ranks.gather_over_replicas(response_units(groups))
        return {position: tokens for part in parts for position, tokens in part.items()}

    def gather(self, samples: Sequence[TrainingSample]) -> list[TrainingSample]:
        """Collective. The samples of all replicas in the step's order, which does not depend on DP."""
        everyone = [s for part in self._ranks.gather_over_replicas(list(samples)) for s in part]
        return sorted(
            everyone, key=lambda s: s.group_position
        )  # stable: a group keeps the order of its responses


def check_row_keys(samples: Sequence[TrainingSample]) -> None:
    """Rows are found again by their keys (drift, KL penalty): two with one key would train with one's numbers."""
    counts = Counter(sample.row_key for sample in samples)
    repeated = [key for key, count in counts.items() if count > 1]
    assert not repeated, (
        f"{len(repeated)} responses stand twice in the step's batch; the first is {repeated[0].response_id} "
        f"({repeated[0].origin}) of the group at position {repeated[0].position}"
    )


def in_order_of_pass(samples: Sequence[TrainingSample], number: int) -> list[TrainingSample]:
    """The first pass (0) over a batch is in the step's order, replayed rows spread over it; each later one has its
    groups in an order of its own, by a hash: the same on every rank and at every layout."""
    if number == 0:
        return spread_replayed(samples)
    groups: dict[int, list[TrainingSample]] = {}
    for sample in samples:
        groups.setdefault(sample.group_position, []).append(sample)

    def hash_rank(members: list[TrainingSample]) -> str:
        first = members[0]  # its id tells the step
        text = f"pass {number}: {first.prompt_id} {first.row_key}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    return [sample for members in sorted(groups.values(), key=hash_rank) for sample in members]


def spread_replayed(samples: Sequence[TrainingSample]) -> list[TrainingSample]:
    """Replayed rows come last in the step; of several mini-batches each is to have its share of them. Six groups and
    two rows a, b: 0 a 1 2 3 b 4 5, up to rounding."""
    positions = {
        kind: sorted({s.group_position for s in samples if (s.origin == "replayed") == kind})
        for kind in (False, True)
    }
    rank_of = {
        (position, kind): (number + 0.5) / len(of_kind)
        for kind, of_kind in positions.items()
        for number, position in enumerate(of_kind)
    }
    return sorted(samples, key=lambda s: rank_of[s.group_position, s.origin == "replayed"])


def split_by_group(samples: Sequence[TrainingSample], num_parts: int) -> list[list[TrainingSample]]:
    """At most `num_parts` mini-batches of whole groups, in order, of about equal token counts; none is empty."""
    groups: dict[int, list[TrainingSample]] = {}
    for sample in samples:
        groups.setdefault(sample.group_position, []).append(sample)
    if not groups:
        return []
    num_parts = min(num_parts, len(groups))
    total = sum(s.num_tokens for s in samples)
    parts: list[list[TrainingSample]] = [[]]
    seen, left = 0, len(groups)
    for members in groups.values():
        is_full = seen >= total * len(parts) / num_parts
        must_open = left == num_parts - len(
            parts
        )  # as many groups left as mini-batches still to open
        if parts[-1] and len(parts) < num_parts and (is_full or must_open):
            parts.append([])
        parts[-1].extend(members)
        seen += sum(s.num_tokens for s in members)
        left -= 1
    return parts


def pack(samples: Sequence[TrainingSample], weights: Sequence[float]) -> MicroBatch:
    """Whole sequences end to end; no sample at all gives the dummy row of two padding tokens.

    A prompt [7, 8] with the response [3, 4] takes four positions; position 1 predicts 3 and position 2 predicts 4:

        token_ids  7 8 3 4      target_ids  0 3 4 0      loss_mask  0 1 1 0
    """
    if not samples:
        return _dummy_row()
    lengths = [s.num_tokens for s in samples]
    total = sum(lengths)
    token_ids = np.zeros(total, np.int64)
    position_ids = np.concatenate([np.arange(n, dtype=np.int64) for n in lengths])
    sequence_ids = np.repeat(np.arange(len(samples), dtype=np.int64), lengths)
    target_ids = np.zeros(total, np.int64)
    floats = {
        name: np.zeros(total, np.float32) for name in ("mask", "advantage", "weight", "behaviour")
    }
    is_reused, is_replayed, uses_behaviour = (np.zeros(total, bool) for _ in range(3))
    start = 0
    for sample, weight in zip(samples, weights, strict=True):
        prompt, length = len(sample.prompt_token_ids), sample.num_tokens
        token_ids[start : start + prompt] = sample.prompt_token_ids
        token_ids[start + prompt : start + length] = sample.response_token_ids
        predicting = slice(start + prompt - 1, start + length - 1)
        target_ids[predicting] = sample.response_token_ids
        floats["mask"][predicting] = 1.0
        floats["advantage"][predicting] = sample.advantage
        floats["weight"][predicting] = weight
        floats["behaviour"][predicting] = sample.behaviour_logprobs
        is_reused[predicting] = sample.origin != "fresh"
        is_replayed[predicting] = sample.origin == "replayed"
        uses_behaviour[predicting] = sample.uses_behaviour_logprobs
        start += length
    return MicroBatch(
        token_ids=torch.from_numpy(token_ids),
        position_ids=torch.from_numpy(position_ids),
        cu_seqlens=torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.int32),
        sequence_ids=torch.from_numpy(sequence_ids),
        target_ids=torch.from_numpy(target_ids),
        loss_mask=torch.from_numpy(floats["mask"]),
        advantages=torch.from_numpy(floats["advantage"]),
        weights=torch.from_numpy(floats["weight"]),
        behaviour_logprobs=torch.from_numpy(floats["behaviour"]),
        is_reused=torch.from_numpy(is_reused),
        uses_behaviour_logprobs=torch.from_numpy(uses_behaviour),
        row_keys=tuple(s.row_key for s in samples),
        is_replayed=torch.from_numpy(is_replayed) if is_replayed.any() else None,
    )


def _dummy_row() -> MicroBatch:
    """Keeps pipeline schedules and gradient all-reduce in step; teaches nothing."""
    zeros = torch.zeros(2)
    return MicroBatch(
        token_ids=torch.zeros(2, dtype=torch.int64),
        position_ids=torch.arange(2),
        cu_seqlens=torch.tensor([0, 2], dtype=torch.int32),
        sequence_ids=torch.zeros(2, dtype=torch.int64),
        target_ids=torch.zeros(2, dtype=torch.int64),
        loss_mask=zeros,
        advantages=zeros,
        weights=zeros,
        behaviour_logprobs=zeros,
        is_reused=torch.zeros(2, dtype=torch.bool),
        uses_behaviour_logprobs=torch.zeros(2, dtype=torch.bool),
    )
