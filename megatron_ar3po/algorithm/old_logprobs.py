"""Old log-probs: what the ratio of a token is measured against, exp(logprob - old_logprob).

They are those of the policy at the start of the step, before its first update. Where they come from is settled once,
for each mini-batch (`OldLogprobsFrom`):

    update   the forward pass that trains the mini-batch. The first one of a step still meets the weights of its start:
             its log-probs, detached, are the old ones. The ratio is exactly 1, and its gradient is the policy gradient
    pass     a forward pass of their own before the first update: for later mini-batches, and wherever something wants
             them before the update (a KL in the reward, a limit on the drift of borrowed responses)
    server   nobody computes them: every token of the mini-batch is measured against what the server said

Tokens with `uses_behaviour_logprobs` are measured against the log-probs that the server reported when it sampled them,
wherever the others come from: borrowed ones under `reuse.option=stored`, fresh ones under
`algorithm.old_logprobs=behaviour`.

Worked example, one step of two mini-batches. No pass is needed for the first, and none at all under `behaviour`,
where nothing is borrowed or what is borrowed is stored:

    old_logprobs=recompute   update, pass        kl_in=reward   pass, pass
    old_logprobs=behaviour   update, server      a limit on the drift, a loan in the first   pass, pass

Two passes over one mini-batch (`algorithm.num_epochs=2`): pass, pass; or update, server under `behaviour`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.types import MicroBatch, OldLogprobsFrom, TrainingSample


def source_of_old_logprobs(
    index: int, samples: Sequence[TrainingSample], algorithm: AlgorithmConfig, reuse: ReuseConfig
) -> OldLogprobsFrom:
    """Of mini-batch `index` of a step, counted from 0 through all of its passes; `samples`: its own, of all
    data-parallel ranks."""
    recomputed = [sample for sample in samples if not sample.uses_behaviour_logprobs]
    penalizes = algorithm.kl_coef != 0 and algorithm.kl_in == "reward"
    may_drift = reuse.max_logprob_drift > 0 and any(s.origin == "reused" for s in recomputed)
    if penalizes or may_drift:
        return "pass"
    # A later pass over the batch meets the first mini-batch's rows after other updates.
    may_come_first = algorithm.num_epochs == 1 or not recomputed
    if index == 0 and may_come_first:
        return "update"
    return "pass" if recomputed else "server"


def with_start_logprobs(micro_batch: MicroBatch, logprobs: Tensor) -> MicroBatch:
    """`old_logprobs` are the actor's at the start of the step, of every response token. `logprobs`: [T], of the forward
    pass that trains, without gradient and 0 off the response. Where nobody knows them (`server`) the server's stand in
    for them."""
    if micro_batch.old_logprobs_from == "update":
        return replace(micro_batch, old_logprobs=logprobs)
    if micro_batch.old_logprobs_from == "server":
        return replace(micro_batch, old_logprobs=micro_batch.behaviour_logprobs)
    assert micro_batch.old_logprobs is not None, "old_logprobs are None: run compute_logprobs first"
    return micro_batch


def with_old_logprobs(at_start: MicroBatch) -> MicroBatch:
    """`old_logprobs` as the ratio takes them: the server's where a token is measured against those."""
    assert at_start.old_logprobs is not None, "they come from with_start_logprobs"
    old = torch.where(
        at_start.uses_behaviour_logprobs, at_start.behaviour_logprobs, at_start.old_logprobs
    )
    return replace(at_start, old_logprobs=old)
