"""The functions that docs/algorithms.md shows are the ones that run here."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.algorithm_cases import Row, group, micro_batch, on_response

from megatron_ar3po.algorithm.advantages import advantages_of
from megatron_ar3po.algorithm.custom import check_custom_functions
from megatron_ar3po.algorithm.policy_loss import policy_loss
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.prompt_record import PromptRecord
from megatron_ar3po.user_functions import load_user_function

PAGE = Path(__file__).parents[3] / "docs" / "algorithms.md"


@pytest.fixture
def my_objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AlgorithmConfig:
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "my_objective.py").write_text("\n".join(blocks), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    load_user_function.cache_clear()
    paths = re.findall(r"algorithm\.(\w+)=(my_objective:\w+)", text)
    return AlgorithmConfig(**dict(paths))


def test_the_function_of_the_page_that_takes_the_history_measures_against_it(
    my_objective: AlgorithmConfig,
) -> None:
    """Solved in 1 of 4 before: 3/4 for the right answer, -1/4 for the wrong one. Never seen: the pooled rate, 1/2."""
    config = AlgorithmConfig(advantage="my_objective:against_the_past")
    check_custom_functions(config)
    seen = replace(group([1, 0]), record=PromptRecord(correct=1.0, wrong=3.0))
    known, new = advantages_of([seen, group([1], position=1)], config)
    np.testing.assert_allclose(known, [0.75, -0.25])
    np.testing.assert_allclose(new, [0.5])


def test_the_functions_of_the_page_are_accepted_at_the_start(my_objective: AlgorithmConfig) -> None:
    assert my_objective.advantage == "my_objective:shorter_is_better"
    assert my_objective.policy_loss == "my_objective:soft_clip"
    check_custom_functions(my_objective)


def test_the_advantage_of_the_page_favours_the_short_answer(my_objective: AlgorithmConfig) -> None:
    """Rewards 1 1 0 at 2, 4 and 4 tokens: values 1/2, 1/4, 0, mean 1/4."""
    [advantages] = advantages_of([group([1, 1, 0], lengths=[2, 4, 4])], my_objective)
    np.testing.assert_allclose(advantages, [0.25, 0.0, -0.25])


def test_the_loss_of_the_page_has_the_policy_gradient_at_ratio_one(
    my_objective: AlgorithmConfig,
) -> None:
    """The slope of tanh at 0 is 1."""
    batch = micro_batch([Row(old=[-1.0, -2.0], advantage=0.5)])
    logprobs = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    policy_loss(on_response(batch, logprobs), batch, my_objective).loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-0.5, -0.5])
