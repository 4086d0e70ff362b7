"""TRL's own GRPO loss and its gradient, advantages and ratios on fixed tensors: `python trl_losses.py IN.pt OUT.pt`.

Run by `test_trl.py` with TRL on the path. The loss is the unbound `GRPOTrainer._compute_loss`; around it stands what it
reads from the trainer, so that no model, data set or generation is needed.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch

from megatron_ar3po.platform.torchvision_schemas import ensure_torchvision_schemas

ensure_torchvision_schemas()

from trl.trainer.grpo_trainer import GRPOTrainer  # noqa: E402
from trl_advantages import grpo_advantages, importance_ratio, rloo_advantages  # noqa: E402


def trainer_around(case: dict[str, Any], logps: torch.Tensor, entropies: torch.Tensor) -> Any:
    return SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logps, entropies, None),
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x
        ),
        args=SimpleNamespace(delta=case.get("delta"), use_bias_correction_kl=False),
        model=SimpleNamespace(training=False),  # no gradient accumulation
        loss_type=case["loss_type"],
        importance_sampling_level=case.get("level", "token"),
        epsilon_low=case.get("epsilon_low", 0.2),
        epsilon_high=case.get("epsilon_high", 0.28),
        beta=case.get("beta", 0.0),
        entropy_coef=case.get("entropy_coef", 0.0),
        _entropy_bonus_enabled="entropy_coef" in case,
        use_adaptive_entropy=False,
        use_vllm="importance_sampling_ratio" in case,
        vllm_importance_sampling_correction=True,
        max_completion_length=logps.shape[1],
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        aux_loss_enabled=False,
        _metrics={"eval": defaultdict(list)},
    )


def loss_and_gradient(case: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    logps = tensors["logprobs"].clone().requires_grad_()
    mask = tensors["mask"]
    inputs = {
        "prompt_ids": torch.zeros(len(mask), 1, dtype=torch.int64),
        "prompt_mask": torch.ones(len(mask), 1, dtype=torch.int64),
        "completion_ids": torch.zeros(mask.shape, dtype=torch.int64),
        "completion_mask": mask,
        "advantages": tensors["advantages"],
        "old_per_token_logps": None if case.get("own_old") else tensors["old_logprobs"],
        "ref_per_token_logps": tensors["reference_logprobs"],
        "importance_sampling_ratio": case.get("importance_sampling_ratio"),
        "num_items_in_batch": mask.sum(),
    }
    trainer = trainer_around(case, logps, tensors["entropies"])
    loss = GRPOTrainer._compute_loss(trainer, trainer.model, inputs)
    loss.backward()
    clip = trainer._metrics["eval"].get("clip_ratio/region_mean", [None])[0]
    return {"loss": loss.item(), "gradient": logps.grad, "clip_frac": clip}


def answers(given: dict[str, Any]) -> dict[str, Any]:
    tensors, rewards, size = given["tensors"], given["rewards"], given["group_size"]
    return {
        "losses": [loss_and_gradient(case, tensors) for case in given["cases"]],
        "grpo": {scale: grpo_advantages(rewards, size, scale) for scale in ("group", "none")},
        "rloo": {beta: rloo_advantages(rewards, size, beta, tensors) for beta in given["betas"]},
        "ratios": {mode: importance_ratio(mode, given["cap"], tensors) for mode in given["modes"]},
    }


if __name__ == "__main__":
    torch.save(answers(torch.load(sys.argv[1])), sys.argv[2])
