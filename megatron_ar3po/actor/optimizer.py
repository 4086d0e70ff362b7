"""AdamW over Megatron's DDP buffers: learning-rate schedule, clipping, and a step that refuses what is not finite.

The schedule is a function of the number of the update, k of N, counted from 1, with N = `run.num_steps` *
`algorithm.num_epochs` * `algorithm.num_mini_batches` of the config that runs now. With a warm-up of W updates and p =
max(W, 1):

    k <= p    learning_rate * k / p                        the first update is never one of rate 0
    k > p     from learning_rate at p down to min_learning_rate at N + 1: the last update still learns

Worked example, learning_rate 1, min_learning_rate 0, N = 4:

    W    lr_decay    rates
    0    constant    1, 1, 1, 1
    0    linear      1, 0.75, 0.5, 0.25
    2    linear      0.5, 1, 0.666667, 0.333333
    0    cosine      1, 0.853553, 0.5, 0.146447

(torch's and Megatron's own loops begin their warm-up with an update of rate 0, and so end it one update later.) Only an
update that was made counts: a step that trains nothing and a skipped update leave the schedule where it is, as they
leave AdamW's count. A resumed run goes on at its k, under the N of its config.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig, clip_grads, get_megatron_optimizer
from megatron.core.optimizer.optimizer import ChainedOptimizer, MegatronOptimizer
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
    grad_norm: float  # before clipping
    learning_rate: float  # of this step
    was_skipped: bool


def make_scheduler(
    optimizer: MegatronOptimizer, actor: ActorConfig, total_steps: int
) -> OptimizerParamScheduler:
    """The schedule above. After `step(1)` the rate is that of the next update."""
    warmup_steps = max(actor.lr_warmup_steps, 1)
    decay_steps = max(total_steps, warmup_steps) + 1  # the rate is at its least behind the end
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=actor.learning_rate,
        min_lr=actor.min_learning_rate,
        lr_warmup_steps=warmup_steps,
        lr_decay_steps=decay_steps,
        lr_decay_style=actor.lr_decay,
        start_wd=actor.weight_decay,
        end_wd=actor.weight_decay,
        wd_incr_steps=decay_steps,
        wd_incr_style="constant",
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
    )


class Optimizer:
    """The optimizer and its schedule; `total_steps` is N of the module's docstring."""

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
            min_lr=actor.min_learning_rate,
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
        self.scheduler = make_scheduler(self.inner, actor, total_steps)

    def step(self, loss: float) -> StepResult:
        """Collective over all ranks; the same result on each. `loss` is that of all ranks. Where it or the gradient is
        not finite, weights, moments and schedule stay as they were."""
        self.scheduler.step(1)
        learning_rate = self.inner.param_groups[0]["lr"] if self.inner.param_groups else 0.0
        self.inner.prepare_grads()
        grad_norm = float(self.inner.get_grad_norm())
        is_finite = math.isfinite(loss) and math.isfinite(grad_norm)
        if is_finite:
            self._clip(grad_norm)
            self.inner.step_with_ready_grads()
        else:
            self.scheduler.step(-1)
        return StepResult(grad_norm, learning_rate, was_skipped=not is_finite)

    def _clip(self, grad_norm: float) -> None:
        if self.clip_grad <= 0:
            return
        parameters: list[Any] = [
            p for one in self.inner.chained_optimizers for p in one.get_parameters()
        ]
        if parameters:
            clip_grads.clip_grad_by_total_norm_fp32(parameters, self.clip_grad, grad_norm)
