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

These are the units that carry gradient (`algorithm.denominator=kept`). With `all` the units are those
of every fresh graded response of the whole step, whether it carries gradient or not, an even share of
them for each of its mini-batches: the weight of a response then does not grow because others taught
nothing. Failed, cancelled and borrowed responses are in no denominator of `all`, a response that a
borrowed one has replaced is in each; a borrowed one that trains is divided by it as the others are.

Worked example, prompt p with responses of 1 and 3 tokens, prompt q with one response of 4 tokens:

    token_mean           1/8   1/8   1/8      8 units (tokens)
    seq_mean_token_mean  1/3   1/9   1/12     3 units (sequences)
    seq_mean_token_sum   1/3   1/3   1/3      3 units (sequences)
    prompt_mean          1/8   1/8   1/8      2 units (prompts)

The same with `all`, where the step had one more response of q, of 2 tokens and without advantage, and
prompt r with two of 5 tokens, all wrong:

    token_mean           1/20  1/20  1/20     20 units
    seq_mean_token_mean  1/6   1/18  1/24     6 units
    seq_mean_token_sum   1/6   1/6   1/6      6 units
    prompt_mean          1/12  1/12  1/18     3 units
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from megatron_ar3po.types import ResponseGroup, TrainingSample

Aggregation = Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "prompt_mean"]
ResponseUnits = Mapping[int, Sequence[int]]  # position of a group -> tokens of its responses


def token_weights(
    samples: Sequence[TrainingSample],
    aggregation: Aggregation,
    *,
    units: ResponseUnits | None = None,
    num_parts: int = 1,
) -> tuple[NDArray[np.float64], float]:
    """`samples`: one mini-batch, of all data-parallel ranks. Returns ([num_samples] the weight of
    each response token of a sample, the number of units in the denominator); no samples give
    (empty, 0). `units`: all of the step, which has `num_parts` mini-batches; None: those of `samples`."""
    lengths = np.array([sample.num_response_tokens for sample in samples], dtype=np.float64)
    assert (lengths > 0).all(), "a training sample without response tokens has no mean"
    if not samples:
        return lengths, 0.0
    of_samples: dict[int, list[int]] = {}
    for sample in samples:
        of_samples.setdefault(sample.group_position, []).append(sample.num_response_tokens)
    share = 1.0 / num_parts if units else 1.0
    units = units or of_samples
    if aggregation == "token_mean":
        num_units = share * sum(map(sum, units.values()))
        return np.full_like(lengths, 1.0 / num_units), float(num_units)
    if aggregation == "prompt_mean":
        # of a group without a fresh graded response borrowed ones may train alone
        tokens_of = {at: float(sum(units.get(at, of_samples[at]))) for at in of_samples}
        own = np.array([tokens_of[s.group_position] for s in samples], dtype=np.float64)
        return 1.0 / (share * len(units) * own), share * len(units)
    num_sequences = share * sum(map(len, units.values()))
    if aggregation == "seq_mean_token_mean":
        return 1.0 / (num_sequences * lengths), num_sequences
    assert aggregation == "seq_mean_token_sum", f"unknown aggregation {aggregation!r}"
    return np.full_like(lengths, 1.0 / num_sequences), num_sequences


def response_units(groups: Iterable[ResponseGroup]) -> dict[int, list[int]]:
    """Position of a group -> tokens of each of its fresh graded responses, replaced ones among them and cancelled ones
    left out; a group without any is left out too."""
    units = {
        group.position: [
            scored.response.num_tokens
            for scored in group.sampled
            if scored.is_graded
            and scored.response.finish_reason != "abort"
            and scored.response.num_tokens
        ]
        for group in groups
    }
    return {position: tokens for position, tokens in units.items() if tokens}
