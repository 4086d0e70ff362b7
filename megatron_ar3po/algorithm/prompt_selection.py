"""Which prompts a step takes: choices by what each of them has shown, as plain functions of arrays over all.

With A correct and B wrong responses in a prompt's decayed counts, its pass rate has the distribution Beta(A + 1,
B + 1):

    weighted   without replacement, with weights w = a b / ((a + b) (a + b + 1)), a = A + 1, b = B + 1: the variance of
               a response that is expected of it. Efraimidis and Spirakis (2006): the largest log(u) / w are taken
    thompson   one pass rate is drawn from each distribution; those nearest to 1/2 are taken (MoPPS, arXiv:2507.04632)
    your own   (counts) -> [N] weights, drawn as `weighted` does

Worked example, weights: never seen 1 * 1 / (2 * 3) = 1/6; 3 correct and 3 wrong 4 * 4 / (8 * 9) = 2/9; 20 correct
21 * 1 / (22 * 23) = 0.0415.

Of more than 8,192 prompts so many are candidates in a draw, any prompt with the same chance; so a draw costs a few
milliseconds at a million prompts.

All noise comes of hashes of (seed, number of the draw), prompt by prompt in the order of `PromptCounts`, which is that
of the prompts' keys: the choice depends neither on the layout nor on the order of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from megatron_ar3po.user_functions import UserFunction, load_user_function

_MASK = 0xFFFFFFFFFFFFFFFF
MOST_CANDIDATES = 8_192
Weights = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCounts:
    """Of N prompts, all of the run or the candidates of a draw: each array [N], as of the end of `step`."""

    step: int
    keys: NDArray[np.uint64]  # what a prompt is known by; ascending
    correct: NDArray[np.float32]  # decayed at each visit
    wrong: NDArray[np.float32]
    last_step: NDArray[np.int32]  # of the last visit; 0: never visited
    visits: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.keys)

    def at(self, indices: NDArray[np.int64]) -> PromptCounts:
        """Of these prompts alone."""
        return PromptCounts(
            step=self.step,
            keys=self.keys[indices],
            correct=self.correct[indices],
            wrong=self.wrong[indices],
            last_step=self.last_step[indices],
            visits=self.visits[indices],
        )


def draw_candidates(num_prompts: int, noise_key: str) -> NDArray[np.int64]:
    """Indices of the prompts that a draw looks at, ascending: all, or `MOST_CANDIDATES` drawn with replacement."""
    if num_prompts <= MOST_CANDIDATES:
        return np.arange(num_prompts)
    counter = np.arange(MOST_CANDIDATES, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.unique((uniforms(counter, f"{noise_key}:candidates") * num_prompts).astype(np.int64))


def expected_variance(counts: PromptCounts) -> Weights:
    a, b = counts.correct + np.float64(1), counts.wrong + np.float64(1)
    return a * b / ((a + b) * (a + b + 1))


def weighted_scores(weights: Weights, keys: NDArray[np.uint64], noise_key: str) -> Weights:
    """[N]; those of the largest scores are drawn. -inf where the weight is 0."""
    noise = np.log(uniforms(keys, noise_key))
    with np.errstate(divide="ignore"):
        return np.where(weights > 0, noise / weights, -np.inf)


def thompson_scores(counts: PromptCounts, noise_key: str) -> Weights:
    generator = np.random.Generator(np.random.Philox(key=_number_of(noise_key)))
    drawn = generator.beta(counts.correct + np.float64(1), counts.wrong + np.float64(1))
    return -np.abs(drawn - 0.5)


def take_largest(scores: Weights, num: int) -> list[int]:
    """Indices of the `num` largest finite scores, the largest first; fewer where there are no more."""
    num = min(num, int(np.isfinite(scores).sum()))
    if num <= 0:
        return []
    largest = np.argpartition(scores, len(scores) - num)[len(scores) - num :]
    return largest[np.lexsort((largest, -scores[largest]))].tolist()


def uniforms(keys: NDArray[np.uint64], noise_key: str) -> Weights:
    """[N] in (0, 1), of a hash of each key and of `noise_key` (splitmix64)."""
    with np.errstate(over="ignore"):
        mixed = keys + np.uint64(_number_of(noise_key))
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53


def load_selection_function(path: str) -> UserFunction:
    return load_user_function("data.selection", path, "counts")


def read_weights(answer: object, counts: PromptCounts, option: str) -> Weights:
    """What a user's function returned, as weights. Raises ValueError where it is none."""
    try:
        weights = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{option} returned {type(answer).__name__}, of which no weights can be made ({error}); return an array "
            "with one weight for each prompt."
        ) from error
    if weights.shape != (len(counts),):
        raise ValueError(
            f"{option} returned an array of shape {list(weights.shape)} for {len(counts)} prompts; return one weight "
            "for each of them, in their order."
        )
    is_wrong = ~(np.isfinite(weights) & (weights >= 0))
    if is_wrong.any():
        first = int(np.flatnonzero(is_wrong)[0])
        raise ValueError(
            f"{option} returned the weight {weights[first]} for the prompt at index {first} "
            f"({counts.correct[first]:g} correct, {counts.wrong[first]:g} wrong, {counts.visits[first]} visits); "
            "weights are finite and at least 0."
        )
    if not weights.any():
        raise ValueError(
            f"{option} returned the weight 0 for all of {len(counts)} prompts: none could be chosen."
        )
    return weights


def _number_of(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") & _MASK
