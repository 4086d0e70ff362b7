"""The verifier of a run: decoding, the truncated rule, rewards. Not exercised here: which answers are equal."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from dataclasses import asdict, replace
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from megatron_ar3po.config.rewards import RewardsConfig
from megatron_ar3po.rewards.grade import Grade
from megatron_ar3po.rewards.ground_truths import (
    check_ground_truth,
    check_ground_truths,
    why_unusable,
)
from megatron_ar3po.rewards.pool import VerifierPoolError
from megatron_ar3po.rewards.verifier import (
    make_verifier,
    overlong_penalty,
    verdict_options,
    verifier_version,
)
from megatron_ar3po.rewards.worker import as_grade
from megatron_ar3po.types import Prompt, Response, Verdict


class CharTokenizer:
    """Token id = code point; id 0 is the end-of-sequence token."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        return "".join(chr(t) for t in token_ids if t or not skip_special_tokens)


def response_of(text: str, finish_reason: str = "stop") -> Response:
    token_ids = np.array([ord(c) for c in text] + [0] * (finish_reason == "stop"), dtype=np.int32)
    return Response(
        response_id="r",
        prompt_id="p",
        token_ids=token_ids,
        logprobs=np.zeros(len(token_ids), dtype=np.float32),
        finish_reason=finish_reason,  # type: ignore[arg-type]
        policy_version=0,
        step=1,
        stage=1,
        index=0,
    )


def verify(
    config: RewardsConfig, text: str, ground_truth: str, finish_reason: str = "stop", limit: int = 0
) -> Verdict:
    verifier = make_verifier(config, CharTokenizer(), max_response_tokens=limit)
    try:
        prompt = Prompt(prompt_id="p", token_ids=(1,), ground_truth=ground_truth)
        return asyncio.run(verifier.verify(prompt, response_of(text, finish_reason)))
    finally:
        verifier.close()


LAST_NUMBER = RewardsConfig(verifier="last_number", correct=1.0, incorrect=-0.25)


def test_a_correct_response_earns_the_reward_of_a_correct_one() -> None:
    verdict = verify(LAST_NUMBER, "1;5", "5")
    assert (verdict.reward, verdict.status, verdict.extracted) == (1.0, "correct", "5")


def test_an_incorrect_response_earns_the_other_reward() -> None:
    assert verify(LAST_NUMBER, "1;5", "6").reward == -0.25


def test_a_truncated_response_is_incorrect_even_when_its_answer_is_right() -> None:
    verdict = verify(LAST_NUMBER, "1;5", "5", finish_reason="length")
    assert (verdict.reward, verdict.status) == (-0.25, "truncated")


def test_a_truncated_response_is_graded_when_the_config_says_so() -> None:
    config = RewardsConfig(verifier="last_number", truncated="grade")
    assert verify(config, "1;5", "5", finish_reason="length").status == "correct"


def test_the_overlong_penalty_falls_in_a_line_to_minus_one() -> None:
    found = [overlong_penalty(n, max_tokens=100, interval=50) for n in (0, 50, 60, 75, 100, 101)]
    assert found == [0.0, 0.0, -0.2, -0.5, -1.0, -1.0]


def test_the_overlong_penalty_is_added_to_the_reward() -> None:
    config = RewardsConfig(verifier="last_number", overlong_penalty_tokens=4)
    # three characters and the stop token: two tokens into the interval (2, 6]
    assert verify(config, "1;5", "5", limit=6).reward == pytest.approx(0.5)


def test_an_interval_longer_than_the_response_limit_is_refused() -> None:
    config = RewardsConfig(verifier="last_number", overlong_penalty_tokens=8)
    with pytest.raises(
        ValueError, match=r"rewards\.overlong_penalty_tokens=8 .*rollout\.max_response_tokens"
    ):
        make_verifier(config, CharTokenizer(), max_response_tokens=8)


def test_a_ground_truth_is_checked_for_the_verifier_that_will_use_it() -> None:
    assert check_ground_truth("5", "last_number") is None
    assert "no plain integer" in (check_ground_truth("x", "last_number") or "")
    assert check_ground_truth("  ", "last_number") == "it is empty"


# --- the math verifier, in its worker processes


def test_a_math_response_is_graded_in_a_worker_and_earns_the_format_reward() -> None:
    config = RewardsConfig(verifier="math", format_reward=0.25)
    verdict = verify(config, r"So it is $\boxed{\frac{2}{4}}$.", "0.5")
    assert (verdict.reward, verdict.status, verdict.extracted) == (1.25, "correct", r"\frac{2}{4}")


def test_many_responses_are_verified_at_once_and_the_event_loop_stays_free() -> None:
    """Eight responses, one of which hangs until its limit; meanwhile the loop ticks."""
    config = RewardsConfig(verifier="chaos_grader:make_grader", num_workers=2, timeout_s=0.5)

    async def run() -> tuple[list[str], int]:
        verifier = make_verifier(config, CharTokenizer())
        prompt = Prompt(prompt_id="p", token_ids=(1,), ground_truth="5")
        try:
            texts = ["5", "loop", "5", "6", "5", "6", "5", "5"]
            verdicts = asyncio.gather(
                *(verifier.verify(prompt, response_of(text)) for text in texts)
            )
            ticks = 0
            while not verdicts.done():
                await asyncio.sleep(0.01)
                ticks += 1
            return [verdict.status for verdict in await verdicts], ticks
        finally:
            verifier.close()

    statuses, ticks = asyncio.run(run())
    right, wrong = "correct", "incorrect"
    assert statuses == [right, "ungradable", right, wrong, right, wrong, right, right]
    assert ticks >= 5


def test_a_prompt_may_bring_its_own_tolerance() -> None:
    verifier = make_verifier(RewardsConfig(verifier="math"), CharTokenizer())
    try:
        unread = (None, "1e-1,1e-2", True, False, "true")  # a flag is no tolerance of 1
        for error, status in (("1e-1", "correct"), *((value, "incorrect") for value in unread)):
            prompt = Prompt(
                prompt_id="p", token_ids=(1,), ground_truth="2.4", metadata={"error": error}
            )
            verdict = asyncio.run(verifier.verify(prompt, response_of(r"\boxed{2.45}")))
            assert verdict.status == status
    finally:
        verifier.close()


def test_the_field_of_a_prompts_tolerance_is_an_option() -> None:
    config = RewardsConfig(tolerance_field="slack")
    assert verdict_options({"slack": 0.5, "error": 0.1}, config) == {"tolerance": "0.5"}
    assert verdict_options({"error": True}, RewardsConfig()) == {}
    assert verdict_options({"error": 0.1}, RewardsConfig(tolerance_field="")) == {}


@pytest.mark.parametrize(
    ("answer", "status", "reward"),
    [
        (np.bool_(True), "correct", None),
        (np.float32(0.5), "incorrect", 0.5),
        (np.int64(1), "correct", 1.0),
        (np.array(1.0), "correct", 1.0),
        (torch.tensor(0.25), "incorrect", 0.25),
        (Fraction(1, 4), "incorrect", 0.25),
        (Decimal("1.5"), "correct", 1.5),
        (Grade(status="correct", reward=np.float32(0.5), is_marked=np.bool_(True)), "correct", 0.5),  # type: ignore[arg-type]
    ],
)
def test_numbers_of_other_libraries_are_numbers(
    answer: object, status: str, reward: float | None
) -> None:
    grade = as_grade(answer, correct=1.0)
    assert (grade.status, grade.reward) == (status, reward)
    json.dumps(asdict(grade))  # as the worker writes it


@pytest.mark.parametrize("answer", [np.array([1.0]), np.float64("nan"), "1", None, 1j])
def test_anything_else_is_no_grade(answer: object) -> None:
    with pytest.raises(TypeError, match="a grader returns a Grade, a bool or a finite number"):
        as_grade(answer, correct=1.0)


def test_an_ungradable_response_has_the_reward_of_an_incorrect_one() -> None:
    """Twice not decided within its time; at full length it is punished for that besides."""
    config = RewardsConfig(
        verifier="chaos_grader:make_grader",
        timeout_s=0.5,
        incorrect=-0.5,
        overlong_penalty_tokens=2,
    )
    verdict = verify(config, "loop", "1", limit=len("loop") + 1)
    assert (verdict.status, verdict.reward) == ("ungradable", -1.5)


def test_a_verifier_that_fails_says_nothing_and_gives_no_reward() -> None:
    """A grader that raises, and workers that are gone."""
    config = RewardsConfig(verifier="chaos_grader:make_grader", incorrect=-1.0)
    verdict = verify(config, "raise", "1")
    assert (verdict.status, verdict.reward) == ("error", None)
    assert verdict.reason == "RuntimeError: no such luck, twice"
    verifier = make_verifier(config, CharTokenizer())
    verifier.close()
    prompt = Prompt(prompt_id="p", token_ids=(1,), ground_truth="1")
    verdict = asyncio.run(verifier.verify(prompt, response_of("1")))
    assert (verdict.status, verdict.reward) == ("error", None)
    assert verdict.reason == "the verifier pool is closed"


def test_a_grade_with_a_status_that_we_do_not_know_is_an_error_that_names_those_we_do() -> None:
    with pytest.raises(ValueError, match=r"one of the statuses .*ungradable, error, not 'timeout'"):
        as_grade(Grade(status="timeout"), correct=1.0)  # type: ignore[arg-type]


def test_the_ground_truths_of_a_dataset_are_checked_once_each() -> None:
    texts = ["5", r"\frac{1}{2}", "", r"\oslash ???", "5", r"\oslash ???"]
    reasons = check_ground_truths(texts, RewardsConfig(verifier="math"))
    assert [reason is None for reason in reasons] == [True, True, False, False, True, False]
    assert reasons[2] == "it is empty"
    assert check_ground_truths(["x"], RewardsConfig(verifier="last_number")) != [None]


def test_a_ground_truth_that_could_not_be_checked_is_not_called_unusable() -> None:
    """Left out with data.unusable_answers=skip, a prompt would be gone because a worker was killed."""
    slow = Grade(status="ungradable", reason="not decided within 5 s, twice")
    assert why_unusable("7", slow) == "not decided within 5 s, twice"
    assert why_unusable("7", Grade(status="correct")) is None
    with pytest.raises(VerifierPoolError, match=r"'7' could not be checked: its worker was killed"):
        why_unusable("7", Grade(status="error", reason="its worker was killed (SIGKILL), twice"))


def test_the_version_follows_every_option_that_can_change_a_verdict() -> None:
    last_number, plain = RewardsConfig(verifier="last_number"), RewardsConfig(verifier="math")
    boxed = replace(plain, answer_format="boxed")
    configs = (
        last_number,
        plain,
        boxed,
        replace(boxed, strict_format=True),
        replace(plain, answer_fallback=False),
        replace(plain, tolerance=0.1),
        replace(plain, truncated="grade"),
    )
    for one, other in itertools.combinations(configs, 2):
        assert verifier_version(one) != verifier_version(other), (one, other)
    assert verifier_version(replace(plain, num_workers=7)) == verifier_version(plain)
    assert make_verifier(last_number, CharTokenizer()).version == verifier_version(last_number)


def test_an_unknown_verifier_is_named_with_the_known_ones() -> None:
    said = r"rewards\.verifier=maths is neither one of math, last_number nor an import path"
    with pytest.raises(ValueError, match=said):
        RewardsConfig(verifier="maths")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("no_such_module:make", "there is no module 'no_such_module'"),
        ("chaos_grader:with_three_arguments", r"cannot take \(response, ground_truth\)"),
        ("chaos_grader:broken_factory", r"KeyError: 'threshold'\n  at .*chaos_grader\.py:\d+: "),
    ],
)
def test_a_users_broken_grader_is_named_before_the_run_with_its_own_line(
    path: str, said: str
) -> None:
    with pytest.raises(ValueError, match=rf"rewards\.verifier={path} cannot grade") as raised:
        make_verifier(RewardsConfig(verifier=path), CharTokenizer())
    text = str(raised.value)
    assert re.search(said, text)
    assert "Traceback" not in text and "worker.py" not in text
    assert "factory(rewards_config) returns grader(response, ground_truth)" in text
