"""Our objective against TRL's on the same tensors: loss, gradient, clip fraction, advantages, KL in the reward, ratios.

TRL lies in a folder of its own (`.cache/trl`, made on the first run, about half a minute) on top of this environment's
torch and transformers. Not covered here, for TRL has no such thing: GMPO, dual clip's bound on ratios below 1, prompt
means, a borrowed response (hand-worked numbers and torch in tests/unit/algorithm).
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from crosscheck.apart import installed_apart
from fakes.algorithm_cases import Row, group, micro_batch, on_response

from megatron_ar3po.algorithm.advantages import advantages_of
from megatron_ar3po.algorithm.importance_sampling import importance_weights
from megatron_ar3po.algorithm.kl import sequence_kl
from megatron_ar3po.algorithm.policy_loss import PolicyLoss, policy_loss
from megatron_ar3po.algorithm.training_samples import with_kl_penalty
from megatron_ar3po.config.algorithm import AlgorithmConfig, ImportanceSampling
from megatron_ar3po.types import MicroBatch, ResponseGroup

pytestmark = pytest.mark.crosscheck

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RUN_TIMEOUT_S = 180

LENGTHS = [5, 2, 7, 1]
ADVANTAGES = [1.3, -0.4, -1.1, 0.6]


def make_padded() -> dict[str, torch.Tensor]:
    """Four responses of unequal length; log ratios up to +-1.3, so that every clip is met."""
    generator = torch.Generator().manual_seed(0)
    shape = (len(LENGTHS), max(LENGTHS))
    old = -2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 0.1
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    return {
        "mask": torch.tensor([[int(t < n) for t in range(shape[1])] for n in LENGTHS]),
        "advantages": torch.tensor(ADVANTAGES, dtype=torch.float64),
        "old_logprobs": old,
        "logprobs": old + 0.5 * noise,
        "reference_logprobs": old - 0.3 * noise.flip(1),
        "entropies": torch.rand(shape, generator=generator, dtype=torch.float64),
        "behaviour_logprobs": old
        - 0.6 * torch.randn(shape, generator=generator, dtype=torch.float64),
    }


TENSORS = make_padded()
IS_TOKEN = TENSORS["mask"] > 0
RATIO = (TENSORS["old_logprobs"] - TENSORS["behaviour_logprobs"]).exp().clamp(max=2.0)

# name: (TRL's settings, ours, our aggregation)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "grpo": ({"loss_type": "grpo"}, {}, "seq_mean_token_mean"),
    "bnpo": ({"loss_type": "bnpo"}, {}, "token_mean"),
    "dapo": ({"loss_type": "dapo"}, {}, "token_mean"),
    "dr_grpo": ({"loss_type": "dr_grpo"}, {}, "seq_mean_token_sum"),
    "no std": ({"loss_type": "dr_grpo", "beta": 0.1}, {"kl_coef": 0.1}, "seq_mean_token_sum"),
    "symmetric clip": (
        {"loss_type": "bnpo", "epsilon_high": 0.2},
        {"clip_ratio_high": 0.2},
        "token_mean",
    ),
    "two-sided clip": (
        {"loss_type": "bnpo", "delta": 1.5},
        {"policy_loss": "dual_clip", "dual_clip_ratio": 1.5},
        "token_mean",
    ),
    "gspo": (
        {"loss_type": "grpo", "level": "sequence"},
        {"policy_loss": "gspo"},
        "seq_mean_token_mean",
    ),
    "luspo": (
        {"loss_type": "luspo", "level": "sequence"},
        {"policy_loss": "gspo"},
        "seq_mean_token_sum",
    ),
    "cispo": (
        {"loss_type": "cispo", "epsilon_high": 1.28},  # TRL's bound is the ratio itself
        {"policy_loss": "cispo"},
        "token_mean",
    ),
    "kl": ({"loss_type": "grpo", "beta": 0.2}, {"kl_coef": 0.2}, "seq_mean_token_mean"),
    "entropy": (
        {"loss_type": "bnpo", "entropy_coef": 0.05},
        {"entropy_coef": 0.05},
        "token_mean",
    ),
    "old log-probs of its own": (
        {"loss_type": "dapo", "beta": 0.1, "own_old": True},
        {"kl_coef": 0.1},
        "token_mean",
    ),
    "truncated importance sampling": (
        {"loss_type": "dapo", "beta": 0.1, "importance_sampling_ratio": RATIO},
        {"importance_sampling": "token", "importance_sampling_cap": 2.0, "kl_coef": 0.1},
        "token_mean",
    ),
}

# Two groups of two, as the rows stand.
REWARDS, GROUP_SIZE = [1.0, 0.25, 0.5, 0.0], 2
BETAS, CAP = [0.0, 0.3], 1.5
MODES: dict[str, ImportanceSampling] = {
    "token_truncate": "token",
    "token_mask": "token_mask",
    "sequence_truncate": "sequence",
    "sequence_mask": "sequence_mask",
}

WEIGHTS = {
    "token_mean": [1 / sum(LENGTHS)] * len(LENGTHS),
    "seq_mean_token_mean": [1 / (len(LENGTHS) * n) for n in LENGTHS],
    "seq_mean_token_sum": [1 / len(LENGTHS)] * len(LENGTHS),
}


@pytest.fixture(scope="session")
def trl_folder() -> Path:
    return installed_apart("trl", HERE / "trl_requirements.txt")


@pytest.fixture(scope="session")
def trl_answers(
    trl_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """One process for all cases: importing TRL takes ten seconds."""
    files = tmp_path_factory.mktemp("trl")
    given = {
        "cases": [theirs for theirs, _, _ in CASES.values()],
        "tensors": TENSORS,
        "rewards": torch.tensor(REWARDS, dtype=torch.float64),
        "group_size": GROUP_SIZE,
        "betas": BETAS,
        "cap": CAP,
        "modes": list(MODES),
    }
    torch.save(given, files / "in.pt")
    done = subprocess.run(
        [sys.executable, str(HERE / "trl_losses.py"), str(files / "in.pt"), str(files / "out.pt")],
        env=os.environ | {"PYTHONPATH": f"{trl_folder}{os.pathsep}{ROOT}", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
    )
    assert done.returncode == 0, f"TRL's loss failed:\n{done.stderr[-3000:]}"
    answers = torch.load(files / "out.pt")
    return answers | {"losses": dict(zip(CASES, answers["losses"], strict=True))}


def pack_rows(aggregation: str) -> MicroBatch:
    rows = [
        Row(
            old=TENSORS["old_logprobs"][i, :n].tolist(),
            behaviour=TENSORS["behaviour_logprobs"][i, :n].tolist(),
            advantage=ADVANTAGES[i],
            weight=WEIGHTS[aggregation][i],
        )
        for i, n in enumerate(LENGTHS)
    ]
    return micro_batch(rows)


def our_answer(name: str) -> tuple[PolicyLoss, torch.Tensor]:
    """The same responses, packed; the gradient by response token in order."""
    theirs, options, aggregation = CASES[name]
    batch = pack_rows(aggregation)
    if theirs.get("own_old"):
        batch = replace(batch, old_logprobs=None, old_logprobs_from="update")
    logprobs = TENSORS["logprobs"][IS_TOKEN].clone().requires_grad_()
    result = policy_loss(
        on_response(batch, logprobs),
        batch,
        AlgorithmConfig(**options),
        entropy=on_response(batch, TENSORS["entropies"][IS_TOKEN]),
        reference_logprobs=on_response(batch, TENSORS["reference_logprobs"][IS_TOKEN]),
    )
    result.loss.backward()
    assert logprobs.grad is not None
    return result, logprobs.grad


@pytest.mark.parametrize("name", CASES)
def test_our_loss_and_gradient_are_those_of_trl(
    name: str, trl_answers: dict[str, dict[str, Any]]
) -> None:
    """Dr. GRPO divides by the longest length (7) besides; we leave constants to the learning rate."""
    theirs, (ours, gradient) = trl_answers["losses"][name], our_answer(name)
    constant = max(LENGTHS) if CASES[name][0]["loss_type"] == "dr_grpo" else 1
    assert ours.loss.item() / constant == pytest.approx(theirs["loss"], abs=1e-12)
    torch.testing.assert_close(
        gradient / constant, theirs["gradient"][IS_TOKEN], atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("name", ["grpo", "bnpo", "symmetric clip"])
def test_our_clip_fraction_is_that_of_trl(
    name: str, trl_answers: dict[str, dict[str, Any]]
) -> None:
    ours, _ = our_answer(name)
    total, count = ours.sums["actor/clip_frac"]
    assert 0 < total < count
    assert (total / count).item() == pytest.approx(
        trl_answers["losses"][name]["clip_frac"], abs=1e-6
    )


def our_groups() -> list[ResponseGroup]:
    parts = (REWARDS[:GROUP_SIZE], REWARDS[GROUP_SIZE:])
    return [group(part, position=position) for position, part in enumerate(parts)]


def flat(groups: list[ResponseGroup], **options: Any) -> list[float]:
    return [float(a) for part in advantages_of(groups, AlgorithmConfig(**options)) for a in part]


def test_our_group_advantages_are_those_of_trl(trl_answers: dict[str, Any]) -> None:
    """TRL adds 1e-4 to the std and we 1e-6: sample stds 0.75 and 0.5 over the square root of 2."""
    stds = torch.tensor([0.75, 0.75, 0.5, 0.5], dtype=torch.float64) / 2**0.5
    ours = torch.tensor(flat(our_groups(), advantage_std="sample"), dtype=torch.float64)
    torch.testing.assert_close(
        ours * (stds + 1e-6) / (stds + 1e-4), trl_answers["grpo"]["group"], atol=1e-12, rtol=0
    )
    without = torch.tensor(flat(our_groups(), advantage_std="none"), dtype=torch.float64)
    torch.testing.assert_close(without, trl_answers["grpo"]["none"], atol=1e-12, rtol=0)


@pytest.mark.parametrize("beta", BETAS)
def test_our_leave_one_out_advantages_with_the_kl_in_the_reward_are_those_of_trl(
    beta: float, trl_answers: dict[str, Any]
) -> None:
    """Its RLOO takes k1, summed over the response, off the reward."""
    batch = pack_rows("token_mean")
    reference = on_response(batch, TENSORS["reference_logprobs"][IS_TOKEN])
    kl = sequence_kl(replace(batch, reference_logprobs=reference), "k1").tolist()
    names = [(p, f"p{p}.{i}", "fresh") for p in range(2) for i in range(GROUP_SIZE)]
    groups = [with_kl_penalty(g, dict(zip(names, kl, strict=True)), beta) for g in our_groups()]
    ours = torch.tensor(flat(groups, advantage="rloo"), dtype=torch.float64)
    torch.testing.assert_close(ours, trl_answers["rloo"][beta], atol=1e-12, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_our_importance_weights_are_those_of_trl(mode: str, trl_answers: dict[str, Any]) -> None:
    config = AlgorithmConfig(importance_sampling=MODES[mode], importance_sampling_cap=CAP)
    batch = pack_rows("token_mean")
    ours = importance_weights(batch, config)[batch.loss_mask > 0]
    theirs = trl_answers["ratios"][mode].expand(TENSORS["mask"].shape)[IS_TOKEN]
    assert (theirs == 0).any() if mode.endswith("mask") else (theirs == CAP).any()
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
