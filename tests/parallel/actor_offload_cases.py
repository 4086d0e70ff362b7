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


def _frees_its_weights(actor: Any) -> Any:
    """As beside a GPU: the weights' memory is freed, though it is the host's. Who reads them then finds none."""
    from megatron_ar3po.actor.buffer_memory import BufferMemory

    actor._buffers = BufferMemory(actor.model.buffers, moves_weights=True)
    return actor


def _weight_bytes(actor: Any) -> int:
    """Of the storages in which parameters lie now."""
    storages = [p.untyped_storage() for p in actor.policy.parameters()]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


@CASES.add(1, distributed=(True, False))
def weights_go_to_memory_of_the_host_that_is_allocated_once(distributed: bool) -> None:
    """Without the distributed optimizer they lie in no buffer of Megatron's."""
    folder, _ = checkpoint("qwen2", False)
    options = {"use_distributed_optimizer": distributed}
    actor = _frees_its_weights(make_actor(folder, Cut(), actor=options))
    before = {name: x.clone() for name, x in export_tensors(actor).items()}
    held, parts = _weight_bytes(actor), len(list(actor.policy.parameters()))
    for _ in range(5):
        actor.offload()
        assert _weight_bytes(actor) == 0 and "weights" not in actor.held
        assert actor._buffers.host.num_blocks == 1
        assert held <= actor._buffers.host.num_bytes < held + 256 * parts
        actor.onload()
    assert_weights_equal(actor, before, 0.0)


@CASES.add(1, distributed=(True, False))
def updates_of_parked_weights_are_those_of_a_run_without(distributed: bool) -> None:
    folder, _ = checkpoint("qwen2", False)
    options = {"use_distributed_optimizer": distributed}
    stays, goes = (make_actor(folder, Cut(), actor=dict(options)) for _ in range(2))
    run_updates(stays, range(3), 2)
    _frees_its_weights(goes)
    for step in range(3):
        goes.offload()
        goes.onload()
        run_updates(goes, range(step, step + 1), 2)
    assert_weights_equal(goes, export_tensors(stays), 0.0)


@CASES.add(1)
def a_reference_is_refreshed_while_the_weights_are_parked() -> None:
    """As after a step that has trained nothing: no training phase has brought them."""
    folder, _ = checkpoint("qwen2", False)
    actor = make_actor(folder, Cut(), kl_coef=0.5)
    run_updates(actor, range(1), 2)
    wanted = {name: p.detach().clone() for name, p in actor.policy.named_parameters()}
    assert any(not torch.equal(actor.reference._weights[n], x) for n, x in wanted.items())
    _frees_its_weights(actor).offload()
    actor.refresh_reference()
    assert _weight_bytes(actor) == 0 and actor.held == frozenset()
    assert all(torch.equal(actor.reference._weights[n], x) for n, x in wanted.items())


@CASES.add(1)
def a_save_needs_no_gradients_and_an_update_behind_it_gets_them_back() -> None:
    folder, _ = checkpoint("qwen2", False)
    actor = make_actor(folder, Cut())
    run_updates(actor, range(1), 2)
    actor.offload()
    actor.onload(gradients=False)
    assert actor.held == {"weights", "optimizer"}
    assert all(b.grad_data.untyped_storage().nbytes() == 0 for b in actor.model.buffers)
    actor.save(shared_folder()).finish()
    actor.onload()
    assert actor.held == {"weights", "gradients", "optimizer"}
    run_updates(actor, range(1, 2), 2)


@CASES.add(1)
def what_it_took_to_read_parked_weights_is_given_back() -> None:
    """A server that starts next divides what it finds free. Weights that are there anyway give nothing back."""
    from unittest.mock import patch

    from megatron_ar3po.actor import megatron_actor

    folder, _ = checkpoint("qwen2", False)
    actor = _frees_its_weights(make_actor(folder, Cut()))
    when: list[int] = []
    with patch.object(
        megatron_actor, "give_back_freed_memory", lambda: when.append(_weight_bytes(actor))
    ):
        export_tensors(actor)
        assert when == []
        actor.offload()
        export_tensors(actor)
        assert when == [0, 0]
