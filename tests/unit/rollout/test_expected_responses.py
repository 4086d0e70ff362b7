"""Adaptive rollout spends what its closed form says: the real controller, a simulated engine and verifier."""

import numpy as np
import pytest
from fakes.expected_responses import expected_responses
from fakes.rollout_engine import FakeRolloutEngine
from fakes.verifier import FakeVerifier

from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.types import Prompt, StepPrompt

PASS_RATES = (0.0, 0.05, 0.2, 0.5, 0.9)
NUM_PROMPTS = 600  # 120 of each pass rate


@pytest.mark.parametrize(("num_stages", "responses_per_stage"), [(2, 4), (4, 2), (1, 8)])
def test_responses_per_prompt_meet_the_expectation(num_stages, responses_per_stage):
    """A response is correct when its seed, which is uniform, falls below the prompt's pass rate. The mean over 600
    prompts must lie within four standard errors of the average of E[n] over the pass rates."""

    def is_correct(prompt, response) -> bool:
        return response.seed < float(prompt.ground_truth) * 2**31

    prompts = [
        StepPrompt(
            position=i,
            prompt=Prompt(
                prompt_id=f"{i:032x}", token_ids=(1, 2), ground_truth=str(PASS_RATES[i % 5])
            ),
        )
        for i in range(NUM_PROMPTS)
    ]
    controller = RolloutController(
        FakeRolloutEngine(),
        FakeVerifier(is_correct),
        RolloutConfig(num_stages=num_stages, responses_per_stage=responses_per_stage),
        ServersConfig(),
        run_seed=1,
        stop_token_ids=(),
        max_context_tokens=1024,
        vocab_size=64,
    )
    groups = controller.collect(prompts, step=1, policy_version=0).groups
    sizes = np.array([len(group.responses) for group in groups], dtype=float)
    expected = np.mean(
        [
            expected_responses(rate, num_stages=num_stages, responses_per_stage=responses_per_stage)
            for rate in PASS_RATES
        ]
    )
    error = np.sqrt(
        np.mean([sizes[i::5].var() for i in range(5)]) / NUM_PROMPTS
    )  # of a mean over fixed strata
    assert abs(sizes.mean() - expected) <= 4 * error
    unsolved = [g for g in groups if g.prompt.ground_truth == "0.0"]
    assert {len(g.responses) for g in unsolved} == {num_stages * responses_per_stage}
