"""The policy loss of one micro-batch, and what it says about the update.

    loss = sum_T weights * (importance_weight * token_loss + kl_coef * kl - entropy_coef * entropy)

(with `algorithm.kl_in=reward` the KL has gone into the advantages and is only measured here)

The old log-probs of the ratio may be those of this very forward pass (old_logprobs.py); what the actor said at the
start of the step, which the mismatch with the servers is measured by, is then what it says here.

Worked example, two tokens of weight 1/2 at ratio 1, A = 1: token losses -1 and -1. With kl_coef 0.1, k2
of d = -1 and 2 (0.5 and 2), entropy_coef 0.01 and entropies 0.7 and 0.3 the loss is
(-2 + 0.1 * 2.5 - 0.01 * 1.0) / 2 = -0.88.

`micro_batch.weights` hold the share of the whole optimizer step (aggregation.py), so the losses of
micro-batches and of data-parallel ranks add up to the loss of the step: sum them and sum their
gradients, never average.

Metrics count every response token once, whatever its weight: `sums` are (sum, number of tokens) and
`maxima` maxima, to be added up over micro-batches and ranks. Their names depend on the config
alone, so all ranks hold the same ones. A detached (Option II) response has no tokens here and is in
none of them. Nothing here waits for the accelerator. Replayed rows have metrics of their own.

A micro-batch without response tokens gives loss exactly 0 with a graph, so that backward runs on
every rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_ar3po.algorithm.importance_sampling import (
    importance_weights,
    is_borrowed,
    is_fresh,
    mismatch,
)
from megatron_ar3po.algorithm.kl import kl_estimate
from megatron_ar3po.algorithm.old_logprobs import with_old_logprobs, with_start_logprobs
from megatron_ar3po.algorithm.token_losses import TokenLoss, log_ratio_of, token_loss
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.types import MicroBatch


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    loss: Tensor  # [] with the gradient of logprobs and entropy
    sums: dict[str, tuple[Tensor, Tensor]]  # metric -> (sum over tokens, number of tokens)
    maxima: dict[str, Tensor]  # metric -> maximum over tokens, 0 without tokens
    # [N, 4] of a borrowed response, else 0: tokens, sum of ratios, clipped tokens, and the sum of abs(log-prob at the
    # start of the step - stored one)
    borrowed_rows: Tensor


def policy_loss(
    logprobs: Tensor,
    micro_batch: MicroBatch,
    config: AlgorithmConfig,
    *,
    entropy: Tensor | None = None,
    reference_logprobs: Tensor | None = None,
) -> PolicyLoss:
    """`logprobs`, `entropy`, `reference_logprobs`: [T] float32, of the policy now and of the
    reference policy. Entropy is measured when given and rewarded when `entropy_coef` is not 0. Runs
    where the last pipeline stage is."""
    is_response = micro_batch.loss_mask > 0
    logprobs = torch.where(is_response, logprobs, 0.0)
    at_start = with_start_logprobs(micro_batch, logprobs.detach())
    micro_batch = with_old_logprobs(at_start)
    token = token_loss(logprobs, micro_batch, config)
    metrics = _Metrics(is_response)
    _measure_ratio(metrics, logprobs.detach(), token, micro_batch)
    _measure_mismatch(metrics, at_start)

    objective = token.loss
    if config.importance_sampling != "off":
        correction = importance_weights(at_start, config)
        metrics.mean("mismatch/importance_weight_mean", correction, is_fresh(micro_batch))
        beyond = (correction == 0) | (correction == config.importance_sampling_cap)
        metrics.mean("mismatch/beyond_cap_frac", beyond, is_fresh(micro_batch))
        objective = correction * objective
    if config.kl_coef != 0:
        assert reference_logprobs is not None, "algorithm.kl_coef is not 0: pass reference_logprobs"
        reference = torch.where(is_response, reference_logprobs, 0.0)
        kl = kl_estimate(logprobs, reference, config.kl_estimator)
        metrics.mean("actor/reference_kl", kl)
        if config.kl_in == "loss":
            objective = objective + config.kl_coef * kl
    if entropy is not None:
        entropy = torch.where(is_response, entropy, 0.0)
        metrics.mean("actor/entropy", entropy)
    if config.entropy_coef != 0:
        assert entropy is not None, "algorithm.entropy_coef is not 0: pass entropy"
        objective = objective - config.entropy_coef * entropy

    loss = (micro_batch.weights * objective).sum()
    return PolicyLoss(
        loss=loss,
        sums=metrics.sums,
        maxima=metrics.maxima,
        borrowed_rows=_borrowed_rows(logprobs.detach(), token, micro_batch, at_start),
    )


def _measure_ratio(
    metrics: _Metrics, logprobs: Tensor, token: TokenLoss, micro_batch: MicroBatch
) -> None:
    log_ratio = log_ratio_of(logprobs, micro_batch)
    ratio = log_ratio.exp()
    metrics.mean("actor/ratio_mean", ratio)
    metrics.max("actor/ratio_max", ratio)
    metrics.mean("actor/clip_frac", token.is_clipped)
    metrics.mean("actor/approx_kl", log_ratio.expm1() - log_ratio)  # k3 of KL(old || now)
    borrowed = is_borrowed(micro_batch)
    metrics.mean("reuse/ratio_mean", ratio, borrowed)
    metrics.mean("reuse/clip_frac", token.is_clipped, borrowed)
    replayed = micro_batch.is_reused & ~borrowed
    metrics.mean("reuse/replayed_ratio_mean", ratio, replayed)
    metrics.mean("reuse/replayed_clip_frac", token.is_clipped, replayed)


def _measure_mismatch(metrics: _Metrics, at_start: MicroBatch) -> None:
    """Between the actor and the server that sampled, while both held the same weights."""
    is_measured = is_fresh(at_start)
    if at_start.old_logprobs_from == "server":  # nobody knows what the actor said then
        is_measured = torch.zeros_like(is_measured)
    difference = mismatch(at_start).abs()
    metrics.mean("mismatch/logprob_abs_mean", difference, is_measured)
    metrics.max("mismatch/logprob_abs_max", torch.where(is_measured, difference, 0.0))


def _borrowed_rows(
    logprobs: Tensor, token: TokenLoss, micro_batch: MicroBatch, at_start: MicroBatch
) -> Tensor:
    assert at_start.old_logprobs is not None
    ratio = log_ratio_of(logprobs, micro_batch).exp()
    drift = (at_start.old_logprobs - at_start.behaviour_logprobs).abs()
    per_token = torch.stack(
        [torch.ones_like(ratio), ratio, token.is_clipped.to(ratio.dtype), drift], dim=1
    )
    of_a_loan = is_borrowed(micro_batch) & (micro_batch.loss_mask > 0)
    rows = torch.zeros(micro_batch.num_sequences, 4, dtype=ratio.dtype, device=ratio.device)
    return rows.index_add(
        0, micro_batch.sequence_ids, torch.where(of_a_loan[:, None], per_token, 0.0)
    )


class _Metrics:
    """Collects sums over response tokens, without gradient."""

    def __init__(self, is_response: Tensor) -> None:
        self.is_response = is_response
        self.sums: dict[str, tuple[Tensor, Tensor]] = {}
        self.maxima: dict[str, Tensor] = {}

    def mean(self, name: str, values: Tensor, where: Tensor | None = None) -> None:
        counted = self.is_response if where is None else self.is_response & where
        total = torch.where(counted, values.detach(), 0.0).sum()
        self.sums[name] = (total, counted.sum().to(total.dtype))

    def max(self, name: str, values: Tensor) -> None:
        self.maxima[name] = torch.where(self.is_response, values.detach(), 0.0).max()
