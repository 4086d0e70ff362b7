"""The choices themselves, on arrays. A run that takes what they choose: tests/unit/data/test_selected_prompts.py."""

from __future__ import annotations

import numpy as np
import pytest

from megatron_ar3po.algorithm.prompt_selection import (
    PromptCounts,
    draw_candidates,
    expected_variance,
    read_weights,
    take_largest,
    thompson_scores,
    uniforms,
    weighted_scores,
)


def counts(correct: list[float], wrong: list[float]) -> PromptCounts:
    num = len(correct)
    return PromptCounts(
        step=7,
        keys=np.arange(1, num + 1, dtype=np.uint64) * np.uint64(11400714819323198485),
        correct=np.array(correct, np.float32),
        wrong=np.array(wrong, np.float32),
        last_step=np.zeros(num, np.int32),
        visits=np.zeros(num, np.int32),
    )


def test_weights_are_the_variance_that_is_expected_of_a_response() -> None:
    """1/6 never seen, 2/9 after 3 and 3, 21 / 506 after 20 correct ones."""
    found = expected_variance(counts([0, 3, 20], [0, 3, 0]))
    assert found == pytest.approx([1 / 6, 2 / 9, 21 / 506])


def test_the_first_of_a_weighted_draw_comes_as_often_as_its_weight_says() -> None:
    """Weights 1, 2, 7: of 4,000 draws each share is within 0.03 (four standard deviations)."""
    keys = counts([0] * 3, [0] * 3).keys
    weights = np.array([1.0, 2.0, 7.0])
    first = [take_largest(weighted_scores(weights, keys, f"0:{i}"), 1)[0] for i in range(4000)]
    shares = np.bincount(first, minlength=3) / len(first)
    assert shares == pytest.approx([0.1, 0.2, 0.7], abs=0.03)


def test_a_weight_of_0_is_never_drawn() -> None:
    keys = counts([0] * 3, [0] * 3).keys
    scores = weighted_scores(np.array([0.0, 1.0, 1.0]), keys, "k")
    assert sorted(take_largest(scores, 3)) == [1, 2]


def test_thompson_takes_those_of_middling_pass_rate_and_sometimes_the_unknown() -> None:
    """50 of 100 against 100 of 100 and never seen."""
    known = counts([50, 100, 0], [50, 0, 0])
    first = [take_largest(thompson_scores(known, f"0:{i}"), 1)[0] for i in range(300)]
    middling, solved, unknown = np.bincount(first, minlength=3)
    assert middling > 200 and solved == 0 and unknown > 5


def test_noise_is_a_function_of_key_and_draw_alone() -> None:
    keys = counts([0] * 1000, [0] * 1000).keys
    noise = uniforms(keys, "seed:select:4")
    assert (noise[::-1] == uniforms(keys[::-1], "seed:select:4")).all()
    assert (noise != uniforms(keys, "seed:select:5")).all()
    assert 0 < noise.min() < 0.01 and 0.99 < noise.max() < 1
    assert noise.mean() == pytest.approx(0.5, abs=0.04)  # four standard deviations


def test_of_many_prompts_a_draw_looks_at_some_any_of_them_as_likely_as_another() -> None:
    """A million prompts: of 40 draws each tenth has a tenth of the candidates, within 0.0025 (over
    four standard deviations)."""
    assert draw_candidates(100, "0").tolist() == list(range(100))
    draws = [draw_candidates(1_000_000, f"0:{i}") for i in range(40)]
    assert all(8_100 < len(drawn) <= 8_192 for drawn in draws)
    shares = np.bincount(np.concatenate(draws) // 100_000, minlength=10) / sum(map(len, draws))
    assert shares == pytest.approx([0.1] * 10, abs=0.0025)
    assert (draws[0][:100] != draws[1][:100]).any()


def test_the_largest_come_first_and_no_more_than_there_are() -> None:
    scores = np.array([0.1, -np.inf, 0.9, 0.5])
    assert take_largest(scores, 2) == [2, 3]
    assert take_largest(scores, 9) == [2, 3, 0]
    assert take_largest(scores, 0) == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, r"data\.selection=m:f returned .* shape \[\] for 2 prompts"),
        ("no", r"returned str, of which no weights can be made"),
        ([1.0], r"shape \[1\] for 2 prompts; return one weight for each"),
        ([1.0, -1.0], r"weight -1\.0 for the prompt at index 1 \(0 correct, 3 wrong, 0 visits\)"),
        ([float("nan"), 1.0], r"weight nan for the prompt at index 0"),
        ([0.0, 0.0], r"weight 0 for all of 2 prompts"),
    ],
)
def test_what_is_no_array_of_weights_is_refused(answer: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_weights(answer, counts([0, 0], [0, 3]), "data.selection=m:f")
