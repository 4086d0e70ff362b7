"""Aggregation: how much each response token weighs in the loss of one optimizer step.

    loss = sum over tokens of weight * token_loss

The weights of one optimizer step (a mini-batch over all data-parallel ranks) are made here once, so
the loss is a plain sum: it does not depend on how the tokens are packed, split into micro-batches
or spread over ranks. A detached (Option II) response is no `TrainingSample`, so it has no place in
any denominator.

    token_mean           1 / tokens                            every token alike (DAPO)
    seq_mean_token_mean  1 / (sequences * tokens of its own)   every response alike (GRPO)
    seq_mean_token_sum   1 / sequences                         a response weighs by its length
    prompt_mean          1 / (prompts * tokens of its prompt)  every prompt alike

The weights of all tokens sum to 1, but for seq_mean_token_sum: there they sum to the mean length.

Worked example, prompt p with responses of 1 and 3 tokens, prompt q with one response of 4 tokens:

    token_mean           1/8   1/8   1/8      8 units (tokens)
    seq_mean_token_mean  1/3   1/9   1/12     3 units (sequences)
    seq_mean_token_sum   1/3   1/3   1/3      3 units (sequences)
    prompt_mean          1/8   1/8   1/8      2 units (prompts)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from megatron_ar3po.types import TrainingSample

Aggregation = Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "prompt_mean"]


def token_weights(
    samples: Sequence[TrainingSample], aggregation: Aggregation
) -> tuple[NDArray[np.float64], float]:
    """`samples`: one mini-batch, of all data-parallel ranks. Returns ([num_samples] the weight of
    each response token of a sample, the number of units in the denominator); no samples give
    (empty, 0)."""
    lengths = np.array([sample.num_response_tokens for sample in samples], dtype=np.float64)
    assert (lengths > 0).all(), "a training sample without response tokens has no mean"
    if not samples:
        return lengths, 0.0
    if aggregation == "token_mean":
        num_units = lengths.sum()
        return np.full_like(lengths, 1.0 / num_units), float(num_units)
    if aggregation == "prompt_mean":
        return _prompt_mean(samples, lengths)
    num_sequences = float(len(samples))
    if aggregation == "seq_mean_token_mean":
        return 1.0 / (num_sequences * lengths), num_sequences
    assert aggregation == "seq_mean_token_sum", f"unknown aggregation {aggregation!r}"
    return np.full_like(lengths, 1.0 / num_sequences), num_sequences


def _prompt_mean(
    samples: Sequence[TrainingSample], lengths: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    tokens_of: Counter[int] = Counter()
    for sample in samples:
        tokens_of[sample.group_position] += sample.num_response_tokens
    own = np.array([tokens_of[sample.group_position] for sample in samples], dtype=np.float64)
    return 1.0 / (len(tokens_of) * own), float(len(tokens_of))
