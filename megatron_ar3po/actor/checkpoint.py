"""Model and optimizer as one Megatron distributed checkpoint, loadable at any other TP, PP or DP.

Each rank saves and loads its own part, and no part travels to another rank (`optimizer_state`).

Traps of Megatron's optimizers that are met here:

- they want an optimizer state before the first step, to save or to load, and no package's Adam makes one before:
  zero moments stand in;
- torch's AdamW has a `step` beside each parameter's moments, a checkpoint one per parameter group; after a load every
  parameter shares ONE `step` tensor, which AdamW then increments once per parameter: each gets its own;
- a checkpoint holds the parameter groups' settings (learning rate, betas, epsilon), and a load would bring the old ones
  back in silence: those of the config stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedObject
from megatron.core.dist_checkpointing.serialization import (
    get_default_load_sharded_strategy,
)
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelLoadStrategyWrapper,
    FullyParallelSaveStrategyWrapper,
)
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import MegatronOptimizer
from torch import Tensor

from megatron_ar3po.actor import groups, optimizer_state
from megatron_ar3po.actor.background_save import (
    BackgroundSave,
    live_storages,
    results_in_this_process,
)
from megatron_ar3po.actor.megatron_folder import check_folder, pieces_of
from megatron_ar3po.actor.model import PolicyModel
from megatron_ar3po.actor.optimizer import Optimizer
from megatron_ar3po.disk_faults import naming

_SETTINGS = ("max_lr", "min_lr", "betas", "eps")  # of a parameter group; the schedule sets the rest


def save(folder: Path, model: PolicyModel, optimizer: Optimizer) -> BackgroundSave:
    """Collective over all ranks; the files are written behind its back. `folder` exists and is empty."""
    _ensure_state(optimizer)
    return _start(folder, _state(model, optimizer, is_loading=False))


def save_weights(folder: Path, model: PolicyModel) -> BackgroundSave:
    """The weights alone, for `load_weights`. Collective over all ranks."""
    return _start(folder, _weights(model))


def _start(folder: Path, state: dict[str, Any]) -> BackgroundSave:
    results_in_this_process()
    live = live_storages(state)
    with naming(folder):
        request = dist_checkpointing.save(
            state, str(folder), _save_strategy(), async_sharded_save=True
        )
    assert request is not None
    return BackgroundSave(folder, request, live)


def load(folder: Path, model: PolicyModel, optimizer: Optimizer) -> None:
    """Collective over all ranks."""
    _ensure_state(optimizer)
    state: Any = dist_checkpointing.load(
        _state(model, optimizer, is_loading=True), str(folder), _load_strategy(folder)
    )
    model.load_state_dict(state["model"])
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for one, part in _with_its_part(optimizer, state["optimizer"]):
        settings = [{k: group[k] for k in _SETTINGS} for group in one.optimizer.param_groups]
        if isinstance(one, DistributedOptimizer):
            optimizer_state.put(one, _sharded_model(model), part)
        else:
            _load_plain(one, part)
        for group, setting in zip(one.optimizer.param_groups, settings, strict=True):
            group.update(setting)
    _refuse_other_weights(model, weights, folder)
    optimizer.scheduler.num_steps = state["num_scheduler_steps"]
    optimizer.scheduler.step(0)


def load_weights(folder: Path, model: PolicyModel) -> None:
    """The weights alone, of a training checkpoint or of one that was converted. Collective over all ranks."""
    check_folder(folder, pieces_of(model.shape))
    state: Any = dist_checkpointing.load(_weights(model), str(folder), _load_strategy(folder))
    model.load_state_dict(state, strict=False)  # what is left out is Transformer Engine's FP8 state
    unread = {name for name, _ in model.named_parameters()} - set(state)
    assert not unread, unread


def _weights(model: PolicyModel) -> dict[str, Any]:
    sharded = model.sharded_state_dict(metadata={"dp_cp_group": groups.data_parallel()})
    return {k: v for k, v in sharded.items() if not isinstance(v, ShardedObject)}


def _refuse_other_weights(model: PolicyModel, weights: dict[str, Tensor], folder: Path) -> None:
    """The optimizer keeps its own copy of the weights and writes it back when it is loaded. Where that changes a
    weight, its state was cut for another layout, and the moments beside it are wrong as well. All ranks raise."""
    changed = [n for n, p in model.named_parameters() if not torch.equal(p.detach(), weights[n])]
    everywhere: list[list[str] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, changed)
    found = sorted({name for names in everywhere for name in names or ()})
    if found:
        raise ValueError(
            f"{folder} cannot be loaded at this layout: the optimizer's state of {len(found)} parameters "
            f"({found[0]}, ...) does not fit the weights. Resume with the actor.tensor_parallel_size, "
            "actor.pipeline_parallel_size and number of ranks it was saved with."
        )


def _save_strategy() -> Any:
    return FullyParallelSaveStrategyWrapper(
        TorchDistSaveShardedStrategy("torch_dist", 1), groups.data_parallel()
    )


def _load_strategy(folder: Path) -> Any:
    """Beside GPUs the ranks of a data-parallel group share the reading and broadcast what they read. Those broadcasts
    are waited for by a CUDA synchronization alone: on the host nobody would wait, and a rank could train on weights
    that have not arrived. There every rank reads for itself."""
    strategy = get_default_load_sharded_strategy(str(folder))
    if not torch.cuda.is_available():
        return strategy
    return FullyParallelLoadStrategyWrapper(strategy, groups.data_parallel())


def _load_plain(one: MegatronOptimizer, part: dict[str, Any]) -> None:
    if isinstance(one.optimizer, torch.optim.AdamW):  # Megatron leaves a step of 0 out
        part.get("optimizer", part)["state"].setdefault("common_step", torch.zeros(()))
    one.load_state_dict(part)


def _state(model: PolicyModel, optimizer: Optimizer, *, is_loading: bool) -> dict[str, Any]:
    sharded = _sharded_model(model)
    parts = [
        _optimizer_part(one, sharded, is_loading=is_loading)
        for one in optimizer.inner.chained_optimizers
    ]
    return {
        "model": sharded,
        "optimizer": parts[0] if len(parts) == 1 else parts,
        "num_scheduler_steps": optimizer.scheduler.num_steps,
    }


def _sharded_model(model: PolicyModel) -> dict[str, Any]:
    return model.sharded_state_dict(
        metadata={"singleton_local_shards": False, "dp_cp_group": groups.data_parallel()}
    )


def _optimizer_part(one: MegatronOptimizer, sharded: dict[str, Any], *, is_loading: bool) -> Any:
    if not isinstance(one, DistributedOptimizer):
        return one.sharded_state_dict(sharded, is_loading=is_loading)
    if is_loading:
        return optimizer_state.state_to_load(one, sharded)
    return optimizer_state.state_to_save(one, sharded)


def _with_its_part(optimizer: Optimizer, state: Any) -> Iterator[tuple[MegatronOptimizer, Any]]:
    """Megatron's optimizers and the part of a checkpoint's state that is theirs: a chain of one has no list."""
    chained = optimizer.inner.chained_optimizers
    return zip(chained, [state] if len(chained) == 1 else state, strict=True)


def _ensure_state(optimizer: Optimizer) -> None:
    """AdamW of torch and FusedAdam of Transformer Engine and apex alike make their state in the first step."""
    for one in optimizer.inner.chained_optimizers:
        has_step = isinstance(one.optimizer, torch.optim.AdamW)  # the others count per group
        for group in one.optimizer.param_groups:
            for parameter in group["params"]:
                state = one.optimizer.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                    if has_step:
                        state["step"] = torch.zeros(())
