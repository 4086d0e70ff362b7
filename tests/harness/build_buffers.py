"""One rank of a layout with all that it allocates to train, by Megatron's own code on the meta device: weights,
gradient buffers, the optimizer's fp32 copy and moments.

    build_buffers.py '{"NAME": [HF_FOLDER, WORLD_SIZE, TP, PP, CP, RANK, DTYPE], ...}'

Prints RESULT and a JSON object: bytes by part for each name. Where Megatron says cuda:0 it means the meta device here.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch.testing._internal.distributed.fake_pg import FakeStore

from megatron_ar3po.actor.model import Kernels, PolicyModel, initialize_megatron, transformer_config
from megatron_ar3po.actor.optimizer import Optimizer, wrap_for_training
from megatron_ar3po.config.actor import ActorConfig
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.model_shape import read_policy_shape
from megatron_ar3po.platform import megatron_cpu

megatron_cpu.install()
megatron_cpu._CPU = torch.device("meta")
_type = torch.Tensor.type


def name_plain_type(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """Megatron's optimizer goes by the name of a tensor's type, which has the device in it."""
    answer = _type(self, *args, **kwargs)
    return f"torch.{answer.rpartition('.')[2]}" if isinstance(answer, str) else answer


torch.Tensor.type = name_plain_type


def allocate(
    folder: str, world: int, tp: int, pp: int, cp: int, rank: int, dtype: str
) -> dict[str, int]:
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    layout = ParallelLayout(
        world_size=world,
        rank=rank,
        tensor_parallel_size=tp,
        pipeline_parallel_size=pp,
        context_parallel_size=cp,
    )
    initialize_megatron(layout, seed=0)
    kernels = Kernels(has_cuda=False, has_transformer_engine=False, has_fused_weight_gradient=False)
    actor = ActorConfig(
        tensor_parallel_size=tp, pipeline_parallel_size=pp, context_parallel_size=cp
    )
    shape = read_policy_shape(folder)
    with torch.device("meta"):
        config = transformer_config(shape, actor, getattr(torch, dtype), kernels)
        ddp = wrap_for_training(PolicyModel(shape, config, kernels), actor)
        optimizer = Optimizer(ddp, actor, total_steps=1)
    masters = moments = 0
    for one in optimizer.inner.chained_optimizers:
        for group in one.optimizer.param_groups:
            for parameter in group["params"]:
                moments += 2 * 4 * parameter.numel()
        for group in one.shard_fp32_from_float16_groups:
            masters += sum(4 * p.numel() for p in group)
    found = {
        "weights": sum(size_of(buffer.param_data) for buffer in ddp.buffers),
        "gradients": sum(size_of(buffer.grad_data) for buffer in ddp.buffers),
        "optimizer": masters + moments,
    }
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()
    return found


def size_of(tensor: torch.Tensor) -> int:
    assert tensor.device.type == "meta"
    return tensor.numel() * tensor.element_size()


if __name__ == "__main__":
    wanted = json.loads(sys.argv[1])
    print("RESULT" + json.dumps({name: allocate(*wanted[name]) for name in wanted}))
