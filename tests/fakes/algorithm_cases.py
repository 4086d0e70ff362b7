"""Small groups and micro-batches with every number in sight, for the tests of the algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from megatron_ar3po.types import (
    FinishReason,
    MicroBatch,
    Origin,
    Prompt,
    Response,
    ResponseGroup,
    ScoredResponse,
    Verdict,
)


def make_scored(
    reward: float,
    *,
    prompt_id: str = "p0",
    name: str = "r",
    num_tokens: int = 3,
    origin: Origin = "fresh",
    step: int = 5,
    finish_reason: FinishReason = "stop",
) -> ScoredResponse:
    """A response with this reward; correct when the reward is above 0."""
    response = Response(
        response_id=name,
        prompt_id=prompt_id,
        token_ids=np.arange(num_tokens, dtype=np.int32),
        logprobs=np.full(num_tokens, -0.5, dtype=np.float32),
        finish_reason=finish_reason,
        policy_version=step - 1,
        step=step,
        stage=1,
        index=0,
    )
    status: Literal["correct", "incorrect"] = "correct" if reward > 0 else "incorrect"
    return ScoredResponse(
        response=response, verdict=Verdict(reward=reward, status=status), origin=origin
    )


def make_errored(*, prompt_id: str = "p0", name: str = "e", num_tokens: int = 3) -> ScoredResponse:
    """A response for which the verifier failed."""
    scored = make_scored(0.0, prompt_id=prompt_id, name=name, num_tokens=num_tokens)
    verdict = Verdict(reward=None, status="error", reason="sympy died, twice")
    return replace(scored, verdict=verdict)


def group(
    rewards: Sequence[float], *, position: int = 0, lengths: Sequence[int] = (), step: int = 5
) -> ResponseGroup:
    """Responses p<position>.0, p<position>.1, ... with these rewards; 3 tokens each unless told."""
    prompt_id = f"p{position}"
    return ResponseGroup(
        position=position,
        prompt=Prompt(prompt_id=prompt_id, token_ids=(1, 2), ground_truth="7"),
        responses=tuple(
            make_scored(
                reward,
                prompt_id=prompt_id,
                name=f"{prompt_id}.{index}",
                num_tokens=lengths[index] if lengths else 3,
                step=step,
            )
            for index, reward in enumerate(rewards)
        ),
    )


def stored_answer(*, position: int = 0, num_tokens: int = 3, step: int = 1) -> ScoredResponse:
    """A correct response of an earlier step, as the store lends it."""
    prompt_id = f"p{position}"
    return make_scored(
        1.0,
        prompt_id=prompt_id,
        name=f"{prompt_id}.stored",
        num_tokens=num_tokens,
        origin="reused",
        step=step,
    )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sequence of a micro-batch, values of its response tokens in order."""

    old: Sequence[float]
    advantage: float = 1.0
    weight: float = 1.0
    behaviour: Sequence[float] | None = None  # None: the server agreed exactly
    is_reused: bool = False
    is_replayed: bool = False
    num_prompt_tokens: int = 2


def micro_batch(rows: Sequence[Row], *, dtype: torch.dtype = torch.float64) -> MicroBatch:
    lengths = [row.num_prompt_tokens + len(row.old) for row in rows]
    num_tokens = sum(lengths)
    starts = [0, *accumulate(lengths)]
    columns = {
        name: torch.zeros(num_tokens, dtype=dtype)
        for name in ("loss_mask", "advantages", "weights", "behaviour_logprobs", "old_logprobs")
    }
    is_reused = torch.zeros(num_tokens, dtype=torch.bool)
    is_replayed = torch.zeros(num_tokens, dtype=torch.bool)
    for row, start in zip(rows, starts, strict=False):
        first = start + row.num_prompt_tokens - 1
        predicting = slice(first, first + len(row.old))
        behaviour = row.old if row.behaviour is None else row.behaviour
        columns["loss_mask"][predicting] = 1
        columns["advantages"][predicting] = row.advantage
        columns["weights"][predicting] = row.weight
        columns["behaviour_logprobs"][predicting] = torch.tensor(behaviour, dtype=dtype)
        columns["old_logprobs"][predicting] = torch.tensor(row.old, dtype=dtype)
        is_reused[predicting] = row.is_reused or row.is_replayed
        is_replayed[predicting] = row.is_replayed
    return MicroBatch(
        token_ids=torch.zeros(num_tokens, dtype=torch.int64),
        position_ids=torch.cat([torch.arange(length) for length in lengths]),
        cu_seqlens=torch.tensor(starts, dtype=torch.int32),
        sequence_ids=torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(lengths)),
        target_ids=torch.zeros(num_tokens, dtype=torch.int64),
        is_reused=is_reused,
        uses_behaviour_logprobs=is_replayed.clone(),
        is_replayed=is_replayed if is_replayed.any() else None,
        **columns,
    )


def on_response(batch: MicroBatch, values: Tensor | Sequence[float]) -> Tensor:
    """[T] with `values` (one per response token, in order; gradients flow through) and 0 elsewhere."""
    indices = batch.loss_mask.nonzero().squeeze(1)
    flat = torch.as_tensor(values, dtype=batch.weights.dtype)
    return torch.zeros_like(batch.weights).index_put((indices,), flat)
