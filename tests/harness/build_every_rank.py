"""Every rank of a layout, one after the other, on the meta device: what it holds, and what the loader would give it.

    build_every_rank.py '{"NAME": [HF_FOLDER, WORLD_SIZE, TP, PP, CP], ...}' local|te

Prints RESULT and a JSON object: for each name a list, one object a rank.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))
if sys.argv[2] == "te":
    import transformer_engine_names  # type: ignore[import-not-found]

    transformer_engine_names.install()  # before Megatron-Core is imported

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from megatron_ar3po.actor.hf_import import expected_tensors
from megatron_ar3po.actor.hf_mapping import read_shard
from megatron_ar3po.actor.model import (
    Kernels,
    PolicyModel,
    initialize_megatron,
    transformer_config,
)
from megatron_ar3po.config.actor import ActorConfig
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.model_shape import ModelShape, read_policy_shape

IS_TE = sys.argv[2] == "te"


def build(shape: ModelShape, layout: ParallelLayout) -> PolicyModel:
    kernels = Kernels(has_cuda=False, has_transformer_engine=IS_TE, has_fused_weight_gradient=False)
    actor = ActorConfig(
        tensor_parallel_size=layout.tensor_parallel_size,
        pipeline_parallel_size=layout.pipeline_parallel_size,
        context_parallel_size=layout.context_parallel_size,
        megatron={"apply_rope_fusion": False},  # the stand-in has no kernels
    )
    with torch.device("meta"):
        return PolicyModel(
            shape, transformer_config(shape, actor, torch.bfloat16, kernels), kernels
        )


class Files:
    """The published tensors, without content; counts what is read of each."""

    def __init__(self, shape: ModelShape) -> None:
        self._sizes = expected_tensors(shape)
        self.read: dict[str, int] = {}

    def read_rows(self, name: str, first: int, last: int) -> Tensor:
        return self._count(name, torch.empty(self._sizes[name], device="meta")[first:last])

    def read_columns(self, name: str, first: int, last: int) -> Tensor:
        return self._count(name, torch.empty(self._sizes[name], device="meta")[:, first:last])

    def _count(self, name: str, part: Tensor) -> Tensor:
        self.read[name] = self.read.get(name, 0) + part.numel()
        return part


def describe(shape: ModelShape, layout: ParallelLayout) -> dict[str, Any]:
    model = build(shape, layout)
    files, copies = Files(shape), Files(shape)
    slices: dict[str, list[int]] = {}
    for parameter in model.hf_parameters():
        # A norm lies on every tensor-parallel rank; its home is the first.
        is_home = not parameter.is_copy and (parameter.cut != "replicated" or layout.tp_rank == 0)
        source = files if is_home else copies
        part = read_shard(
            parameter,
            shape,
            layout.tensor_parallel_size,
            layout.tp_rank,
            source.read_rows,
            source.read_columns,
        )
        slices[parameter.name] = list(part.shape)
    return {
        "at": {
            "tp": layout.tp_rank,
            "pp": layout.pp_rank,
            "dp": layout.dp_rank,
            "cp": layout.cp_rank,
        },
        "num_layers": len(model.decoder.layers),
        "held": {name: list(p.shape) for name, p in model.named_parameters()},
        "slices": slices,
        "elements_read": files.read,
    }


def every_rank(folder: str, world: int, tp: int, pp: int, cp: int) -> list[dict[str, Any]]:
    shape, found = read_policy_shape(folder), []
    for rank in range(world):
        dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
        layout = ParallelLayout(
            world_size=world,
            rank=rank,
            tensor_parallel_size=tp,
            pipeline_parallel_size=pp,
            context_parallel_size=cp,
        )
        initialize_megatron(layout, seed=0)  # which holds our ranks against Megatron's
        found.append(describe(shape, layout))
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
    return found


if __name__ == "__main__":
    wanted = json.loads(sys.argv[1])
    print("RESULT" + json.dumps({name: every_rank(*wanted[name]) for name in wanted}))
