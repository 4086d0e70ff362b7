"""Log-probabilities (and entropy) of chosen tokens, straight from hidden states: vocab-parallel, chunked over tokens.

The [n, V/tp] logits exist for one chunk at a time, in the forward and again in the backward, which recomputes them.
Peak extra memory is about three [chunk, V/tp] fp32 tensors, plus the gradient of the output weight.

Each TP rank keeps three numbers per token of its slice of the vocabulary: the log-sum-exp, the target's logit (0 if
the target lies elsewhere) and, when entropy is asked for, the expected logit. One all-gather of [3, n] gives the whole:

    lse = logsumexp_r(lse_r)      logprob = sum_r target_r - lse      entropy = lse - sum_r exp(lse_r - lse) * mean_r

so the number of collectives does not grow with the number of chunks, and the backward needs none.
Suffixes: n tokens, H hidden, V this rank's slice of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def token_logprobs(
    hidden_nH: Tensor,
    weight_VH: Tensor,
    target_ids_n: Tensor,
    *,
    temperature: float,
    chunk_tokens: int,
    first_token: int = 0,
    tp_group: dist.ProcessGroup | None = None,
    with_entropy: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """(log-probs [n], entropy [n] if asked for), float32, differentiable, of softmax(hidden @ weight.T / temperature).

    `weight_VH` holds the rows of tokens first_token .. first_token + V - 1 of this TP rank, padding rows left out.
    Collective over `tp_group`; the same result on each of its ranks. The gradient with respect to `hidden_nH` is this
    rank's share: the caller sums it over `tp_group`.
    """
    return _TokenLogprobs.apply(
        hidden_nH,
        weight_VH,
        target_ids_n - first_token,
        temperature,
        chunk_tokens,
        tp_group,
        with_entropy,
    )


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_nH: Tensor,
        weight_VH: Tensor,
        targets_n: Tensor,
        temperature: float,
        chunk_tokens: int,
        tp_group: dist.ProcessGroup | None,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        chunks = [
            _local_statistics(hidden, weight_VH, targets, temperature, with_entropy)
            for hidden, targets in zip(
                hidden_nH.split(chunk_tokens), targets_n.split(chunk_tokens), strict=True
            )
        ]
        lse_n, target_n, mean_n = _combine(torch.cat(chunks, dim=1), tp_group)
        logprob_n = target_n - lse_n
        entropy_n = None if mean_n is None else lse_n - mean_n
        ctx.save_for_backward(hidden_nH, weight_VH, targets_n, lse_n, entropy_n)
        ctx.temperature, ctx.chunk_tokens = temperature, chunk_tokens
        ctx.set_materialize_grads(False)
        return logprob_n, entropy_n

    @staticmethod
    def backward(
        ctx: Any, grad_logprob_n: Tensor | None, grad_entropy_n: Tensor | None
    ) -> tuple[Any, ...]:
        hidden_nH, weight_VH, targets_n, lse_n, entropy_n = ctx.saved_tensors
        grad_hidden_nH = torch.empty_like(hidden_nH)
        grad_weight_VH: Tensor | None = None
        for start in range(0, len(hidden_nH), ctx.chunk_tokens):
            part = slice(start, start + ctx.chunk_tokens)
            grad_logits = _grad_logits(
                _scaled_logits(hidden_nH[part], weight_VH, ctx.temperature).sub_(lse_n[part, None]),
                targets_n[part],
                None if grad_logprob_n is None else grad_logprob_n[part],
                None if grad_entropy_n is None else grad_entropy_n[part],
                None if entropy_n is None else entropy_n[part],
            )
            grad_logits = grad_logits.div_(ctx.temperature).to(hidden_nH.dtype)
            torch.mm(grad_logits, weight_VH, out=grad_hidden_nH[part])
            share = grad_logits.t() @ hidden_nH[part]
            # Many bf16 chunks are summed in fp32: rounding after each would lose the small ones.
            grad_weight_VH = share if grad_weight_VH is None else grad_weight_VH.float().add_(share)
        if grad_weight_VH is not None:
            grad_weight_VH = grad_weight_VH.to(weight_VH.dtype)
        return grad_hidden_nH, grad_weight_VH, None, None, None, None, None


def _scaled_logits(hidden: Tensor, weight_VH: Tensor, temperature: float) -> Tensor:
    """[n, V] float32, a fresh tensor."""
    logits = (hidden @ weight_VH.t()).float()
    return logits if temperature == 1.0 else logits.div_(temperature)


def _local_statistics(
    hidden: Tensor, weight_VH: Tensor, targets: Tensor, temperature: float, with_entropy: bool
) -> Tensor:
    """[3, n]: log-sum-exp, target logit, expected logit over this rank's slice; [2, n] without entropy."""
    if not len(weight_VH):  # a small vocabulary: this rank's slice is padding alone
        nothing = hidden.new_zeros(len(hidden), dtype=torch.float32)
        return torch.stack([nothing - torch.inf, nothing, nothing][: 2 + with_entropy])
    logits = _scaled_logits(hidden, weight_VH, temperature)
    lse = torch.logsumexp(logits, dim=-1)
    is_here = (targets >= 0) & (targets < logits.size(-1))
    target = logits.gather(-1, torch.where(is_here, targets, 0)[:, None])[:, 0] * is_here
    if not with_entropy:
        return torch.stack([lse, target])
    mean = (torch.exp(logits - lse[:, None]) * logits).sum(-1)
    return torch.stack([lse, target, mean])


def _combine(
    local: Tensor, tp_group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    if tp_group is None or dist.get_world_size(tp_group) == 1:
        return local[0], local[1], local[2] if len(local) == 3 else None
    parts = [torch.empty_like(local) for _ in range(dist.get_world_size(tp_group))]
    dist.all_gather(parts, local, group=tp_group)
    lse_r, target_r, *mean_r = torch.stack(parts, dim=1)  # each [tp, n]
    lse = torch.logsumexp(lse_r, dim=0)
    mean = (torch.exp(lse_r - lse) * mean_r[0]).sum(0) if mean_r else None
    return lse, target_r.sum(0), mean


def _grad_logits(
    logp: Tensor,
    targets: Tensor,
    grad_logprob: Tensor | None,
    grad_entropy: Tensor | None,
    entropy: Tensor | None,
) -> Tensor:
    """d loss / d (logits / temperature). `logp` [n, V] holds log p and is used up.

    d logprob_t / d z_j = [j = t] - p_j          d entropy / d z_j = -p_j * (log p_j + entropy)
    """
    if not logp.size(-1):
        return logp
    is_here = (targets >= 0) & (targets < logp.size(-1))
    if grad_entropy is None:
        grad = torch.exp_(logp)
        if grad_logprob is None:
            return grad.zero_()
        grad.mul_(-grad_logprob[:, None])
    else:
        assert entropy is not None
        p = torch.exp(logp)
        grad = logp.add_(entropy[:, None]).mul_(grad_entropy[:, None])
        if grad_logprob is not None:
            grad.add_(grad_logprob[:, None])
        grad.mul_(p).neg_()
    if grad_logprob is not None:
        one_hot = (grad_logprob * is_here)[:, None]
        grad.scatter_add_(-1, torch.where(is_here, targets, 0)[:, None], one_hot)
    return grad
