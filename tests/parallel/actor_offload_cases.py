"""The optimizer's state goes to the host and back around every rollout, and nothing is trained or saved otherwise."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from actor_harness import (
    Cut,
    assert_weights_equal,
    checkpoint,
    export_tensors,
    make_actor,
    run_updates,
    shared_folder,
)
from actor_saved_state_cases import with_fused_adam
from torchrun_cases import Cases

CASES = Cases()


def _make_actor(folder: Path, dtype: str, cut: Cut | None) -> Any:
    """Its copies are done when they are waited for, and not before."""
    from harness.late_copies import LateCopies

    from megatron_ar3po.actor.optimizer_offload import OptimizerOffload

    actor = make_actor(folder, cut or Cut(), dtype=dtype)
    actor.optimizer_offload = OptimizerOffload(actor.policy, actor.optimizer, LateCopies())
    return actor


def _state(actor: Any) -> dict[str, torch.Tensor]:
    """Main weights and moments, copied."""
    actor.optimizer_offload.wait()
    found = {}
    for i, one in enumerate(actor.optimizer.inner.chained_optimizers):
        for j, parameter in enumerate(p for g in one.optimizer.param_groups for p in g["params"]):
            found[f"{i}.{j}"] = parameter.detach().clone()
            for key, value in one.optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    found[f"{i}.{j}.{key}"] = value.clone()
    return found


def _assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys() and len(a) > 10
    assert not (changed := [name for name in a if not torch.equal(a[name], b[name])]), changed


@CASES.add(1, dtype=("float32", "bfloat16"))
@CASES.add(2, dtype=("float32", "bfloat16"), cut=(Cut(),))
def updates_are_the_same_when_the_optimizer_is_offloaded_in_between(
    dtype: str, cut: Cut | None = None
) -> None:
    """In fp32 its parameters are views of the model's: moved, the optimizer would train a copy. In bf16 they are the
    fp32 main weights. Host memory is allocated for them at the start, for the moments behind the first update, and
    then no more; it is as much as the plan says."""
    from megatron_ar3po.reporting.memory_estimate import actor_bytes

    folder, _ = checkpoint("qwen2", False)
    stays = make_actor(folder, cut or Cut(), dtype=dtype)
    run_updates(stays, range(5), 2)
    expected = {name: x.float() for name, x in export_tensors(stays).items()}
    goes = _make_actor(folder, dtype, cut)
    buffers, blocks = goes.optimizer_offload.buffers, []
    for step in range(5):
        goes.offload()
        blocks.append(buffers.num_blocks)
        goes.offload(keep_weights=True)
        goes.onload()
        run_updates(goes, range(step, step + 1), 2)
    assert blocks == ([0, 1, 1, 1, 1] if dtype == "float32" else [1, 2, 2, 2, 2]), blocks
    assert_weights_equal(goes, expected, 0.0)
    rows = 384  # of the embedding: a vocabulary of 300, padded
    shape = dataclasses.replace(goes.policy.shape, vocab_size=rows)
    width = 4 if dtype == "float32" else 2
    planned = actor_bytes(goes.config, shape, goes.layout, width)["optimizer"]
    room = 256 * len(_state(goes))  # each begins at a multiple
    assert abs(buffers.num_bytes - planned) <= room, (buffers.num_bytes, planned)


@CASES.add(1, fused=(False, True))
@CASES.add(2, fused=(True,), cut=(Cut(),))
def what_a_load_brings_is_parked_and_not_what_was_parked_before(
    fused: bool, cut: Cut | None = None
) -> None:
    """A load makes new tensors for the moments. The buffers hold those of other updates."""
    import contextlib

    folder, _ = checkpoint("qwen2", False)
    with with_fused_adam() if fused else contextlib.nullcontext():
        first = _make_actor(folder, "bfloat16", cut)
        run_updates(first, range(2), 2)
        first.offload()
        first.onload()
        saved = shared_folder()  # at once: a save waits for what is on its way
        pending = first.save(saved)
        wanted = _state(first)
        pending.finish()
        run_updates(first, range(2, 3), 2)
        second = _make_actor(folder, "bfloat16", cut)
        run_updates(second, range(5, 6), 2)
        second.offload()
        second.onload()
        second.load(saved)  # at once: what is on its way must not arrive behind it
        _assert_same(_state(second), wanted)
        second.offload()
        second.onload()
        _assert_same(_state(second), wanted)
        run_updates(second, range(2, 3), 2)
        _assert_same(_state(second), _state(first))


@CASES.add(1)
def weights_go_to_memory_of_the_host_that_is_allocated_once() -> None:
    """As beside a GPU: here the weights' memory is freed as well, though it is the host's."""
    from megatron_ar3po.actor.buffer_memory import BufferMemory

    folder, _ = checkpoint("qwen2", False)
    actor = make_actor(folder, Cut())
    before = {name: x.clone() for name, x in export_tensors(actor).items()}
    memory = BufferMemory(actor.model.buffers, moves_weights=True)
    held = sum(buffer.param_data.nbytes for buffer in actor.model.buffers)
    for _ in range(5):
        memory.hold(weights=False, gradients=False)
        assert all(b.param_data.untyped_storage().nbytes() == 0 for b in actor.model.buffers)
        assert memory.host.num_blocks == 1
        assert held <= memory.host.num_bytes < held + 256 * len(actor.model.buffers)
        memory.hold(weights=True, gradients=True)
    assert_weights_equal(actor, before, 0.0)
