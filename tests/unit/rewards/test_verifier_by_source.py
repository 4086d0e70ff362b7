"""`rewards.by_source`: which verifier grades what, whose prompts keep which ids, and what is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from test_grade_command import grade, read, write
from test_verifier import CharTokenizer, response_of

from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.rewards import RewardsConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.rewards.prompt_grading import PromptGrading
from megatron_ar3po.rewards.verdict_settings import verdict_settings
from megatron_ar3po.rewards.verifier import make_verifier, verifier_version
from megatron_ar3po.types import Prompt

THREE = RewardsConfig(
    by_source={
        "gsm8k": "last_number",
        "math": {"verifier": "math", "tolerance": 0.1, "incorrect": -1.0},
        "more": {"verifier": "math", "tolerance": 0.1, "incorrect": -1.0},
        "mine": "fakes.graders:last_number",
    },
    timeout_s=10.0,
)


def prompt_of(source: str, answer: str = "5", **metadata: object) -> Prompt:
    return Prompt(
        prompt_id="p", token_ids=(1,), ground_truth=answer, source=source, metadata=metadata
    )


def test_each_source_is_graded_by_its_own_verifier_with_its_own_options() -> None:
    verifier = make_verifier(THREE, CharTokenizer())
    try:

        def verify(source: str, text: str, answer: str = "5") -> tuple[str, float | None]:
            verdict = asyncio.run(verifier.verify(prompt_of(source, answer), response_of(text)))
            return verdict.status, verdict.reward

        assert verify("gsm8k", r"\boxed{5.05} so 5") == ("correct", 1.0)
        assert verify("math", r"\boxed{5.05} so 5") == ("correct", 1.0)
        assert verify("math", r"\boxed{4} so 5") == ("incorrect", -1.0)
        assert verify("gsm8k", "4") == ("incorrect", 0.0)
        assert verify("mine", "it is 5") == ("correct", 1.0)
        assert verify("more", r"\boxed{\frac{10}{2}}") == ("correct", 1.0)
    finally:
        verifier.close()


def test_a_prompt_has_the_id_that_it_would_have_if_its_verifier_graded_all() -> None:
    grading = PromptGrading(THREE)
    assert grading.version_of("gsm8k") == verifier_version(RewardsConfig(verifier="last_number"))
    assert grading.version_of("math") == verifier_version(RewardsConfig(tolerance=0.1))
    assert grading.version_of("elsewhere") is None
    assert grading.options_of("math", {"error": "0.5"}) == {"tolerance": "0.5"}
    assert grading.options_of("gsm8k", {"error": "0.5"}) == {}
    assert PromptGrading(RewardsConfig()).version_of("elsewhere") == verifier_version(
        RewardsConfig()
    )


def test_a_users_verifier_has_the_version_that_it_had_before_there_were_these_options() -> None:
    """The prompts of the stores that are there keep their ids."""
    mine = RewardsConfig(verifier="fakes.graders:last_number")
    assert verifier_version(mine) == "fakes.graders:last_number:f00a4eb6c291"
    named = RewardsConfig(verifier="fakes.graders:last_number", tolerance_field="slack")
    assert verifier_version(named) != verifier_version(mine)
    of_source = RewardsConfig(by_source={"mine": "fakes.graders:last_number"})
    assert PromptGrading(of_source).version_of("mine") == verifier_version(mine)


@pytest.mark.parametrize(
    ("by_source", "said"),
    [
        ({"a": 3}, r"rewards\.by_source\.a=3 must be the name of a verifier, or a mapping"),
        ({"a": {"tolerence": 1}}, r"rewards\.by_source\.a has no option tolerence; .* tolerance"),
        ({"a": {"max_error_frac": 1}}, r"rewards\.by_source\.a has no option max_error_frac"),
        ({"a": {"tolerance": -1}}, r"rewards\.by_source\.a: rewards\.tolerance=-1 is out of range"),
        ({"a": {"tolerance": "much"}}, r"rewards\.by_source\.a: tolerance: .*valid number"),
    ],
)
def test_options_that_a_source_cannot_have_are_refused(by_source: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RewardsConfig(by_source=by_source)


def test_a_verifier_of_a_source_that_there_is_not_is_refused_by_its_name() -> None:
    said = r"rewards\.by_source\.b: rewards\.verifier=maths is neither one of math, last_number"
    with pytest.raises(ValueError, match=said):
        RewardsConfig(by_source={"a": "math", "b": "maths"})


def test_a_config_names_them_as_it_names_everything(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("rewards:\n  by_source:\n    sums: last_number\n    math: {tolerance: 0.5}\n")
    rewards = load_config([file], ["rewards.by_source.more=math"]).rewards
    assert list(rewards.by_source) == ["sums", "math", "more"]
    own = rewards.for_source("math")
    assert own is not None and (own.verifier, own.tolerance) == ("math", 0.5)
    with pytest.raises(ValueError, match=r"rewards\.by_source\.sums: rewards\.tolerance=-1"):
        load_config([file], ["rewards.by_source.sums={tolerance: -1}"])


def test_ground_truths_are_checked_by_the_verifier_of_their_source() -> None:
    prompts = [
        prompt_of("math", r"\frac12"),
        prompt_of("gsm8k", r"\frac12"),
        prompt_of("mine", "anything"),
        prompt_of("math", r"\oslash ???"),
    ]
    reasons = PromptGrading(THREE).why_unusable(prompts)
    assert [reason is None for reason in reasons] == [True, False, True, False]


def test_answers_are_compared_by_the_verifier_of_their_source() -> None:
    pairs = [("math", "0.5", r"\frac12"), ("math", "0.5", "0.7"), ("gsm8k", "5", "5.0")]
    pairs += [("gsm8k", "0.5", r"\frac12"), ("mine", "5", "5.00")]
    found = PromptGrading(THREE).why_different(
        [(prompt_of(source, one), prompt_of(source, other)) for source, one, other in pairs]
    )
    assert [reason is None for reason in found] == [True, False, True, False, True]


def test_the_settings_of_a_store_tell_one_choice_of_verifiers_from_another() -> None:
    def settings(by_source: dict) -> dict[str, str]:
        return verdict_settings(Config(rewards=RewardsConfig(by_source=by_source)))

    one = settings({"a": "math", "b": "last_number"})
    assert one == settings({"b": "last_number", "a": "math"})
    assert one["rewards.by_source"] == '{"a": "math", "b": "last_number"}'
    other = settings({"a": {"verifier": "math", "correct": 2.0}, "b": "last_number"})
    assert {name for name in one if one[name] != other[name]} == {"rewards.by_source"}
    long = settings({"a": {"overlong_penalty_tokens": 4}})
    assert "rollout.max_response_tokens" in long and "rollout.max_response_tokens" not in one


# --- ar3po grade --config


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(
        "rewards:\n  correct: 2.0\n  by_source:\n    sums: last_number\n"
        "    math: {verifier: math, incorrect: -1.0}\n"
    )
    return file


def test_a_file_is_graded_with_the_verifiers_and_rewards_of_a_config(
    tmp_path: Path, config: Path
) -> None:
    text = r"\boxed{4} so 5"
    rows: list[dict[str, object]] = [
        {"gold": "5", "response": text, "source": source} for source in ("sums", "math", "sums")
    ]
    out = tmp_path / "out.jsonl"
    words = ("--config", config, "--workers", "1")
    assert grade("--input", write(tmp_path / "in.jsonl", rows), "--output", out, *words) == 0
    assert [row["reward"] for row in read(out)] == [2.0, -1.0, 2.0]
    rows.append({"gold": "5", "response": text})
    with pytest.raises(ValueError, match=r"no verifier for the source '', only for 'sums', 'math'"):
        grade("--input", write(tmp_path / "in.jsonl", rows), "--output", out, *words)


def test_a_pair_and_a_check_go_by_source_too(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--config", config, "--workers", "1")
    assert grade("--gold", "5", "--pred", "4", "--source", "math", *words) == 0
    assert "reward     -1" in capsys.readouterr().out
    rows: list[dict[str, object]] = [
        {"answer": r"\frac12", "source": source} for source in ("math", "sums")
    ]
    assert grade("--check", write(tmp_path / "check.jsonl", rows), *words) == 1
    assert "check.jsonl:2: " in capsys.readouterr().out
    with pytest.raises(ValueError, match="--config says how answers are read"):
        grade("--gold", "5", "--pred", "4", "--tolerance", "0.5", *words)
