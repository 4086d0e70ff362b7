"""What methods are expected to spend, held against numbers worked by hand and against drawn responses."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from fakes.expected_responses import expected_responses

from megatron_ar3po.algorithm.history import PromptHistory
from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.schema import Config
from megatron_ar3po.prompt_record import StageOutcome
from megatron_ar3po.reporting.planned_responses import (
    expected_of,
    lines_of_expected,
    read_pass_rates,
)
from megatron_ar3po.rollout.stage_plans import make_stage_rule
from megatron_ar3po.types import Prompt


def config_of(*words: str) -> Config:
    return load_config([], list(words))


def test_the_presets_at_a_pass_rate_of_a_half() -> None:
    """AR3PO 4 + 4 / 16, no signal with 1/16 + 1/256; eight at once are alike with 2 / 256."""
    found = {n: expected_of([0.5], config_of(f"algorithm.name={n}")) for n in ("ar3po", "grpo")}
    assert found["ar3po"] is not None and found["grpo"] is not None
    assert found["ar3po"].responses == 4.25
    assert found["ar3po"].signal == pytest.approx(1 - 1 / 16 - 1 / 256)
    assert found["grpo"].responses == 8
    assert found["grpo"].signal == pytest.approx(1 - 2 / 256)
    assert found["grpo"].per_signal_group == pytest.approx(8 / (1 - 2 / 256))


def test_it_is_averaged_over_the_pass_rates_and_never_taken_at_their_mean() -> None:
    rates = [0.0, 0.1, 0.9, 1.0]
    found = expected_of(rates, config_of("algorithm.name=ar3po"))
    each = [expected_responses(p, num_stages=2, responses_per_stage=4) for p in rates]
    assert found is not None and found.responses == pytest.approx(sum(each) / 4)


def test_one_response_trains_unless_its_settled_prompt_leaves_no_doubt() -> None:
    """Decay 0.95, one response a visit: 19 counts in the end. Pooled 1/2, weight 1/2: always right means a mean of
    19.25 / 19.5 = 0.98718, an advantage of 0.0128 / sqrt(0.0127 + 0.05) = 0.0512, above 0.02 and below 0.06."""
    loose = config_of("algorithm.name=history")
    strict = config_of("algorithm.name=history", "algorithm.history_least_advantage=0.06")
    for config, signal in ((loose, 1.0), (strict, 0.0)):
        found = expected_of([1.0, 0.0], config)
        assert found is not None and (found.responses, found.signal) == (1.0, signal)
    half = expected_of([0.5], strict)
    assert half is not None and half.signal == 1.0


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("rule", ["fixed", "balance", "history", "difficulty"])
def test_each_rule_spends_what_is_expected(rule: str, p: float) -> None:
    """The rule itself, on a settled prompt and 3,000 draws; the tolerance is four standard errors of a mean of counts
    up to 7."""
    words = (
        f"rollout.stage_rule={rule}",
        "rollout.stage_plan=[2,2,3]",
        "rollout.history_success_frac=0.3",
    )
    config = config_of(*words)
    history = PromptHistory(decay=config.rollout.history_decay, prior_weight=0.5)
    settle(history, p, pooled=p)
    prompt = Prompt(prompt_id="p", token_ids=(1,), ground_truth="")
    stage_rule, draws = make_stage_rule(config.rollout, history), random.Random(1)
    counts, mixed = [], 0
    for _ in range(3000):
        stages: list[StageOutcome] = []
        while size := stage_rule.next_stage_size(prompt, stages):
            stages.append(StageOutcome(size, sum(draws.random() < p for _ in range(size))))
        counts.append(sum(stage.responses for stage in stages))
        mixed += 0 < sum(stage.correct for stage in stages) < counts[-1]
    found = expected_of([p], config)
    assert found is not None
    assert found.responses == pytest.approx(sum(counts) / 3000, abs=4 * 2.5 / 3000**0.5)
    assert found.signal == pytest.approx(mixed / 3000, abs=4 * 0.5 / 3000**0.5)


def settle(history: PromptHistory, p: float, *, pooled: float) -> None:
    """20 visits of 1,000 prompts alike stand for one: counts and the pooled rate are at their means."""
    from megatron_ar3po.prompt_record import PromptOutcome

    for step in range(1, 300):
        history.learn(
            step,
            [
                PromptOutcome(prompt_id="p", source="", responses=2, correct=2 * p, tokens=2),  # type: ignore[arg-type]
                PromptOutcome(
                    prompt_id="others",
                    source="",
                    responses=10**6,
                    correct=round(pooled * 10**6),
                    tokens=1,
                ),
            ],
        )


def test_dynamic_sampling_draws_whole_rounds_until_the_batch_is_full() -> None:
    """Signal 127/128 at a half: all 16 prompts of the first round have it with 0.882, else a second one is drawn:
    1.118 rounds of 16 x 8, and next to never a third."""
    lines = list(lines_of_expected([0.5], config_of("algorithm.name=dapo"), "rates.jsonl"))
    assert lines[2].split() == ["this", "config", "8", "8.00", "99.2%", "8.06", "143"]
    assert [line.split()[0] for line in lines[3:7]] == ["ar3po", "grpo", "dapo", "history"]


def test_nothing_is_said_of_a_users_own_rule() -> None:
    config = config_of("rollout.stage_rule=mine:rule")
    assert expected_of([0.5], config) is None
    assert "not known" in list(lines_of_expected([0.5], config, "rates.jsonl"))[2]


def test_pass_rates_come_from_prompts_or_from_a_runs_history(tmp_path: Path) -> None:
    prompts, history = tmp_path / "prompts.jsonl", tmp_path / "history.json"
    prompts.write_text('{"prompt": "1+1=", "rate": 0.25}\n\n{"prompt": "2+2=", "rate": 1}\n')
    assert read_pass_rates(prompts, "rate") == [0.25, 1.0]
    prompts.write_text('{"prompt": "a line\u2028in it", "rate": 0.25}\n', encoding="utf-8")
    assert read_pass_rates(prompts, "rate") == [0.25]
    seen = [{"pass_rate": 0.5, "responses": 3}, {"pass_rate": 0.0, "responses": 0}]
    history.write_text(json.dumps({"windows": [], "prompts": seen}))
    assert read_pass_rates(history, "pass_rate") == [0.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"rate": 1.5}\n', r"line 1: rate=1\.5 is no pass rate"),
        (
            '{"rate": 1}\n{"prompt": "x"}\n',
            "line 2: rate=None is no pass rate; .*--pass-rate-field",
        ),
        ('{"rate": NaN}\n', "line 1: rate=nan is no pass rate"),
        ("rate 1\n", "line 1: no JSON"),
        ("", "holds no line"),
    ],
)
def test_a_file_that_holds_no_pass_rates_is_refused_by_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_pass_rates(path, "rate")
