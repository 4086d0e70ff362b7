"""How many responses a prompt gets, on a real seeded SGLang server, against the closed form of the paper's plan:
E[n] = k * sum_{s<S} (1 - p)^(k s).

Every answer is one token, so a prompt's pass rate is exactly known: the sum of the model's probabilities of the tokens
that the verifier accepts, computed by transformers from the same weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from e2e.test_rollout_server import SERVERS, make_server, set_version
from fakes.expected_responses import expected_responses
from fakes.tiny_model import MAX_CONTEXT_TOKENS, STOP_TOKEN_ID, VOCAB_SIZE, write_tiny_model
from fakes.verifier import FakeVerifier

from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.servers.sglang_engine import SglangEngine
from megatron_ar3po.servers.sglang_server import SglangServer
from megatron_ar3po.types import Prompt, StepPrompt

NUM_PROMPTS = 600
NUM_STAGES, PER_STAGE = 3, 4
# 0 accepts nothing, 128 everything; the tiny model is nearly uniform, so the rates come near size / 128.
ACCEPTED_SIZES = (0, 2, 6, 13, 26, 51, 102, 128)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def server(model, tmp_path_factory) -> Iterator[SglangServer]:
    server = make_server(model, tmp_path_factory.mktemp("logs"))
    server.start()
    try:
        server.wait_ready()
        set_version(server, 0)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def prompts() -> list[StepPrompt]:
    draw = np.random.default_rng(1)
    made = []
    for i in range(NUM_PROMPTS):
        size = ACCEPTED_SIZES[i % len(ACCEPTED_SIZES)]
        accepted = sorted(draw.choice(VOCAB_SIZE, size, replace=False).tolist())
        made.append(
            StepPrompt(
                position=i,
                prompt=Prompt(
                    prompt_id=f"{i:032x}",
                    token_ids=tuple(draw.integers(3, VOCAB_SIZE, 6).tolist()),
                    ground_truth=json.dumps(accepted),
                ),
            )
        )
    return made


@pytest.fixture(scope="module")
def pass_rates(model, prompts) -> np.ndarray:
    """[P] exact, at temperature 1."""
    import torch
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    ids = torch.tensor([p.prompt.token_ids for p in prompts])
    with torch.no_grad():
        probabilities = reference(ids).logits[:, -1].double().softmax(-1).numpy()
    return np.array(
        [probabilities[i, json.loads(p.prompt.ground_truth)].sum() for i, p in enumerate(prompts)]
    )


def is_accepted(prompt: Prompt, response) -> bool:
    return int(response.token_ids[0]) in json.loads(prompt.ground_truth)


def collect(server, prompts, scheduling: str) -> list:
    options = {
        "num_stages": NUM_STAGES,
        "responses_per_stage": PER_STAGE,
        "max_response_tokens": 1,
        "stage_scheduling": scheduling,
    }
    servers = ServersConfig(**{**SERVERS, "max_concurrent_requests": 64})
    controller = RolloutController(
        SglangEngine([server], servers, vocab_size=VOCAB_SIZE, is_deterministic=True),
        FakeVerifier(is_accepted, delay_s=lambda r: (r.seed % 5) / 1000),
        RolloutConfig(**options),
        servers,
        run_seed=11,
        stop_token_ids=(STOP_TOKEN_ID,),
        max_context_tokens=MAX_CONTEXT_TOKENS,
        vocab_size=VOCAB_SIZE,
    )
    try:
        return controller.collect(prompts, step=1, policy_version=0).groups
    finally:
        controller.close()


@pytest.fixture(scope="module")
def continuous(server, prompts) -> list:
    return collect(server, prompts, "continuous")


def test_responses_per_prompt_are_those_of_the_closed_form(continuous, prompts, pass_rates):
    """600 prompts of pass rates from 0 to 1. A prompt's n has the variance E[n^2] - E[n]^2 of its own closed form;
    the mean over the prompts, and over those of each band of pass rates, lies within 4 sigma, and a wrong stage rule
    (one stage more, one response more per stage) would lie far outside."""
    counts = np.array([len(group.responses) for group in continuous], dtype=float)
    assert set(counts) == {4.0, 8.0, 12.0}
    unsolved = (1 - pass_rates) ** PER_STAGE  # after one stage
    mean = np.array(
        [
            expected_responses(p, num_stages=NUM_STAGES, responses_per_stage=PER_STAGE)
            for p in pass_rates
        ]
    )
    # n = 4, 8, 12 with probabilities 1 - q, q (1 - q), q^2
    second = 16 * (1 - unsolved) + 64 * unsolved * (1 - unsolved) + 144 * unsolved**2
    variance = np.maximum(second - mean**2, 0.0)
    bands = [np.ones(NUM_PROMPTS, dtype=bool)]
    bands += [np.arange(NUM_PROMPTS) % len(ACCEPTED_SIZES) == b for b in range(len(ACCEPTED_SIZES))]
    for band in bands:
        sigma = np.sqrt(variance[band].sum()) / band.sum()
        difference = counts[band].mean() - mean[band].mean()
        print(
            f"{band.sum():4} prompts, mean pass rate {pass_rates[band].mean():.3f}: "
            f"{counts[band].mean():.3f} responses, expected {mean[band].mean():.3f} +- {sigma:.3f}"
        )
        assert abs(difference) <= 4 * sigma + 1e-9
    for wrong in ((NUM_STAGES + 1, PER_STAGE), (NUM_STAGES, PER_STAGE + 1)):
        other = np.mean(
            [
                expected_responses(p, num_stages=wrong[0], responses_per_stage=wrong[1])
                for p in pass_rates
            ]
        )
        assert abs(counts.mean() - other) > 8 * np.sqrt(variance.sum()) / NUM_PROMPTS


def test_a_prompt_is_solved_as_often_as_its_pass_rate_says(continuous, pass_rates):
    """Each first-stage answer is one draw: the mean over 2,400 lies within 4 sigma of the mean pass rate."""
    first = [[r.is_correct for r in g.responses if r.response.stage == 1] for g in continuous]
    sigma = np.sqrt((pass_rates * (1 - pass_rates) / PER_STAGE).sum()) / NUM_PROMPTS
    assert abs(np.mean(first) - pass_rates.mean()) <= 4 * sigma


def test_continuous_and_barrier_give_identical_groups(server, prompts, continuous):
    barrier = collect(server, prompts, "barrier")
    for a, b in zip(continuous, barrier, strict=True):
        assert a.rewards.tolist() == b.rewards.tolist()
        for x, y in zip(a.responses, b.responses, strict=True):
            assert x.response.response_id == y.response.response_id
            assert x.response.token_ids.tolist() == y.response.token_ids.tolist()
            np.testing.assert_allclose(x.response.logprobs, y.response.logprobs, atol=1e-5)
