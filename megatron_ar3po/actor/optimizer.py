"""AdamW over Megatron's DDP buffers: learning-rate schedule, clipping, and a step that refuses non-finite gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig, clip_grads, get_megatron_optimizer
from megatron.core.optimizer.optimizer import ChainedOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from megatron_ar3po.actor.model import PolicyModel
from megatron_ar3po.config.actor import ActorConfig


def wrap_for_training(model: PolicyModel, actor: ActorConfig) -> DistributedDataParallel:
    """Gradient buffers, summed over DP in fp32."""
    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True, use_distributed_optimizer=actor.use_distributed_optimizer
    )
    return DistributedDataParallel(model.config, ddp_config, model)


@dataclass(frozen=True, slots=True)
class StepResult:
    grad_norm: float
    learning_rate: float  # of this step
    was_skipped: bool


class Optimizer:
    """The optimizer and its schedule. The schedule counts updates from 1: with a warm-up of 4 the first step runs at
    a quarter of the learning rate."""

    def __init__(
        self, model: DistributedDataParallel, actor: ActorConfig, total_steps: int
    ) -> None:
        self.clip_grad = actor.clip_grad
        policy = model.module
        assert isinstance(policy, PolicyModel)
        dtype = policy.config.params_dtype
        config = OptimizerConfig(
            optimizer="adam",
            lr=actor.learning_rate,
            min_lr=0.0,
            weight_decay=actor.weight_decay,
            adam_beta1=actor.adam_beta1,
            adam_beta2=actor.adam_beta2,
            adam_eps=actor.adam_eps,
            clip_grad=actor.clip_grad,
            bf16=dtype == torch.bfloat16,
            params_dtype=dtype,
            use_distributed_optimizer=actor.use_distributed_optimizer,
        )
        self.inner = cast(
            ChainedOptimizer, get_megatron_optimizer(config, [model], use_gloo_process_groups=False)
        )
        decay_steps = max(total_steps, actor.lr_warmup_steps + 1)
        self.scheduler = OptimizerParamScheduler(
            self.inner,
            init_lr=0.0,
            max_lr=actor.learning_rate,
            min_lr=0.0,
            lr_warmup_steps=actor.lr_warmup_steps,
            lr_decay_steps=decay_steps,
            lr_decay_style=actor.lr_decay,
            start_wd=actor.weight_decay,
            end_wd=actor.weight_decay,
            wd_incr_steps=decay_steps,
            wd_incr_style="constant",
            use_checkpoint_opt_param_scheduler=False,
            override_opt_param_scheduler=True,
        )

    def step(self) -> StepResult:
        """Collective over all ranks; the same result on each. A gradient that is not finite leaves weights and
        moments as they were; the schedule goes on."""
        self.scheduler.step(1)
        learning_rate = self.inner.param_groups[0]["lr"] if self.inner.param_groups else 0.0
        self.inner.prepare_grads()
        grad_norm = float(self.inner.get_grad_norm())
        is_finite = math.isfinite(grad_norm)
        if is_finite:
            self._clip(grad_norm)
            self.inner.step_with_ready_grads()
        return StepResult(grad_norm, learning_rate, was_skipped=not is_finite)

    def _clip(self, grad_norm: float) -> None:
        if self.clip_grad <= 0:
            return
        parameters: list[Any] = [
            p for one in self.inner.chained_optimizers for p in one.get_parameters()
        ]
        if parameters:
            clip_grads.clip_grad_by_total_norm_fp32(parameters, self.clip_grad, grad_norm)
