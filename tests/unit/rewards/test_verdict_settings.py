"""Which settings decide verdicts. That a store of others is refused: test_reuse_faults.py."""

from __future__ import annotations

from dataclasses import replace

from megatron_ar3po.config.rewards import RewardsConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.rewards.verdict_settings import verdict_settings


def settings_of(**rewards: object) -> dict[str, str]:
    return verdict_settings(replace(Config(), rewards=RewardsConfig(**rewards)))  # type: ignore[arg-type]


def test_what_changes_a_verdict_or_its_reward_is_a_setting_and_what_runs_it_is_none() -> None:
    plain = settings_of()
    assert plain["rewards.verifier"] == "math" and plain["rewards.strict_format"] == "false"
    for change in (
        {"correct": 2.0},
        {"format_reward": 0.1},
        {"tolerance": 0.5},
        {"truncated": "grade"},
        {"answer_fallback": False},
        {"require_evaluated": True},
    ):
        (name,) = change
        changed = settings_of(**change)
        assert {n for n in plain if plain[n] != changed[n]} == {f"rewards.{name}"}
    for neutral in ({"num_workers": 8}, {"timeout_s": 9.0}, {"max_error_frac": 0.1}):
        assert settings_of(**neutral) == plain


def test_the_limit_of_responses_decides_with_an_overlong_penalty_alone() -> None:
    assert "rollout.max_response_tokens" not in settings_of()
    limit = Config().rollout.max_response_tokens
    assert settings_of(overlong_penalty_tokens=4)["rollout.max_response_tokens"] == str(limit)
