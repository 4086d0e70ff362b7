"""A checkpoint continues as if nothing had happened, at any layout; one that cannot is refused."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from actor_harness import (
    OF_2,
    OF_4,
    Cut,
    assert_weights_equal,
    checkpoint,
    export_tensors,
    make_actor,
    run_updates,
    saved_weights,
    shared_folder,
)
from torch_reference import reference_updates
from torchrun_cases import Cases, raises

CASES = Cases()


def _checkpoint_continues(saved_at: Cut, loaded_at: Cut, tied: bool, **options: Any) -> None:
    """Two updates, save, load elsewhere, a third update: the weights of three updates in one go. AdamW's step counts
    in its bias correction, so a step that was lost, or counted per parameter, shows."""
    import torch.distributed as dist

    folder, model = checkpoint("qwen2", tied)
    reference = reference_updates(model, steps=3)
    target = shared_folder()
    first = make_actor(folder, saved_at, **copy.deepcopy(options))
    run_updates(first, range(2), 2)
    first.save(target).finish()
    dist.barrier()
    second = make_actor(folder, loaded_at, **options)
    run_updates(second, range(5, 6), 2)  # something else first: all of it must be overwritten
    second.load(target)
    assert_weights_equal(second, saved_weights(reference.weights[1], tied), 1e-5)
    (stats,) = run_updates(second, range(2, 3), 2)
    assert abs(stats.grad_norm - reference.grad_norms[2]) <= 1e-3 * reference.grad_norms[2]
    assert_weights_equal(second, saved_weights(reference.weights[2], tied), 2e-5)


@CASES.add(1)
def a_checkpoint_continues_as_if_nothing_had_happened() -> None:
    _checkpoint_continues(Cut(), Cut(), tied=True)


def _steps_counted(actor: Any) -> list[float]:
    return [
        float(state["step"])
        for one in actor.optimizer.inner.chained_optimizers
        for state in one.optimizer.state.values()
    ]


@CASES.add(1, distributed=(True, False))
def every_parameter_counts_its_own_adamw_steps_after_a_load(distributed: bool) -> None:
    """Megatron hands one step tensor to all parameters when it loads; AdamW then counts it up once for each of them,
    the bias correction is gone at once, and nothing says so. Shown here as well, so that the trap stays known."""
    options = {"actor": {"use_distributed_optimizer": distributed}}
    folder, model = checkpoint("qwen2", False)
    target = shared_folder()
    first = make_actor(folder, Cut(), **copy.deepcopy(options))
    run_updates(first, range(2), 2)
    first.save(target).finish()
    actor = make_actor(folder, Cut(), **options)
    actor.load(target)
    counted = _steps_counted(actor)
    assert len(counted) > 1 and set(counted) == {2.0}
    run_updates(actor, range(2, 3), 2)
    assert set(_steps_counted(actor)) == {3.0}
    assert_weights_equal(actor, reference_updates(model, steps=3).weights[2], 2e-5)

    actor.load(target)
    shared = torch.tensor(2.0)
    for one in actor.optimizer.inner.chained_optimizers:
        for state in one.optimizer.state.values():
            state["step"] = shared
    run_updates(actor, range(2, 3), 2)
    assert set(_steps_counted(actor)) == {2.0 + len(counted)}
    with raises(AssertionError, "differs by"):  # the comparison above would have seen it
        assert_weights_equal(actor, reference_updates(model, steps=3).weights[2], 2e-5)


@CASES.add(1)
@CASES.add(2, cut=OF_2[:2])
def a_checkpoint_of_the_plain_optimizer_continues_as_well(cut: Cut | None = None) -> None:
    plain = {"use_distributed_optimizer": False}
    _checkpoint_continues(cut or Cut(), Cut(), tied=True, actor=plain)


@CASES.add(1, distributed=(True, False))
def a_checkpoint_before_the_first_update_continues_too(distributed: bool) -> None:
    """A run can be stopped before any group carried signal."""
    options = {"actor": {"use_distributed_optimizer": distributed}}
    folder, model = checkpoint("qwen2", False)
    reference = reference_updates(model, steps=1)
    target = shared_folder()
    make_actor(folder, Cut(), **copy.deepcopy(options)).save(target).finish()
    actor = make_actor(folder, Cut(), **options)
    run_updates(actor, range(5, 6), 2)
    actor.load(target)
    run_updates(actor, range(1), 2)
    assert_weights_equal(actor, reference.weights[0], 1e-5)


@CASES.add(1)
@CASES.add(2, cut=OF_2[:3])
def a_schedule_goes_on_from_a_checkpoint(cut: Cut | None = None) -> None:
    """Warm-up 2 of 6 updates, then linear: 1/2, 1, 4/5, 3/5, 2/5, 1/5 of the learning rate. Saved after the third."""
    import torch.distributed as dist

    folder, _ = checkpoint("qwen2", False)
    falling = {"learning_rate": 0.01, "lr_warmup_steps": 2, "lr_decay": "linear"}
    whole = make_actor(folder, cut or Cut(), num_steps=6, actor=falling)
    unbroken = run_updates(whole, range(6), 1)
    rates = [stats.learning_rate for stats in unbroken]
    assert all(
        abs(rate - wanted) < 1e-12
        for rate, wanted in zip(rates, [0.005, 0.01, 0.008, 0.006, 0.004, 0.002], strict=True)
    ), rates
    expected = export_tensors(whole)
    first = make_actor(folder, cut or Cut(), num_steps=6, actor=falling)
    run_updates(first, range(3), 1)
    target = shared_folder()
    first.save(target).finish()
    dist.barrier()
    second = make_actor(folder, cut or Cut(), num_steps=6, actor=falling)
    second.load(target)
    assert run_updates(second, range(3, 6), 1) == unbroken[3:]
    assert_weights_equal(second, {n: x.float() for n, x in expected.items()}, 0.0)


@CASES.add(1, distributed=(True, False))
def a_resumed_optimizer_has_the_settings_of_its_config(distributed: bool) -> None:
    """Megatron keeps them in its parameter groups, which a load brings back. After 3 of 6 updates, now of 10 with
    another rate: the fourth of the new schedule, 0.02 * (1 - 3 / 10)."""
    folder, _ = checkpoint("qwen2", False)
    plain: dict[str, Any] = {"use_distributed_optimizer": distributed, "lr_decay": "linear"}
    first = make_actor(folder, Cut(), num_steps=6, actor={**plain, "learning_rate": 0.01})
    run_updates(first, range(3), 1)
    target = shared_folder()
    first.save(target).finish()
    changed = {"learning_rate": 0.02, "adam_beta2": 0.9, "adam_eps": 1e-6, "weight_decay": 0.3}
    second = make_actor(folder, Cut(), num_steps=10, actor={**plain, **changed})
    second.load(target)
    (stats,) = run_updates(second, range(3, 4), 1)
    assert abs(stats.learning_rate - 0.02 * 0.7) < 1e-12, stats.learning_rate
    for group in second.optimizer.inner.param_groups:
        assert (group["betas"][1], group["eps"]) == (0.9, 1e-6)
        assert group["weight_decay"] == 0.3 * group["wd_mult"]


@CASES.add(1, refresh=(True, False))
@CASES.add(2, cut=OF_2[:3], refresh=(True,))
def a_refreshed_reference_goes_on_from_a_checkpoint(refresh: bool, cut: Cut | None = None) -> None:
    """Refreshed after the first update, saved after the second, loaded at another layout, a third update."""
    import torch.distributed as dist

    folder, model = checkpoint("qwen2", False)
    after = 0 if refresh else -1
    reference = reference_updates(model, steps=3, kl_coef=0.5, refresh_after=after)
    first = make_actor(folder, cut or Cut(), kl_coef=0.5)
    run_updates(first, range(1), 2)
    if refresh:
        first.refresh_reference()
    run_updates(first, range(1, 2), 2)
    target = shared_folder()
    first.save(target).finish()
    dist.barrier()
    assert (target / "reference").is_dir() == refresh
    second = make_actor(folder, Cut(), kl_coef=0.5)
    second.load(target)
    assert_weights_equal(second, reference.weights[1], 1e-5)
    (stats,) = run_updates(second, range(2, 3), 2)
    assert abs(stats.loss - reference.losses[2]) <= 1e-4, (stats.loss, reference.losses[2])
    assert abs(stats.grad_norm - reference.grad_norms[2]) <= 1e-4 * reference.grad_norms[2]
    assert_weights_equal(second, reference.weights[2], 2e-5)


@CASES.add(2, saved_at=OF_2[:3], loaded_at=OF_2[:3])
def a_checkpoint_continues_at_another_layout(saved_at: Cut, loaded_at: Cut) -> None:
    _checkpoint_continues(saved_at, loaded_at, tied=saved_at.pp == 2)


@CASES.add(
    4, saved_at=(OF_4[0],), loaded_at=(OF_4[0], Cut(tp=2), Cut(pp=2), Cut()), tied=(False, True)
)
def a_checkpoint_of_four_ranks_continues_at_another_layout(
    saved_at: Cut, loaded_at: Cut, tied: bool
) -> None:
    _checkpoint_continues(saved_at, loaded_at, tied=tied)


@CASES.add(1)
@CASES.add(2, cut=(Cut(), Cut(tp=2)))
def a_checkpoint_is_that_of_its_moment_while_training_goes_on(cut: Cut | None = None) -> None:
    """The files are held back until two more updates are done; on the host a checkpoint that took no copies would hold
    those. Then it loads, and the run it continues is the one of that moment."""
    import threading

    import torch.distributed as dist

    from megatron_ar3po.actor import background_save

    write, may_write = background_save.write_bucket, threading.Event()

    def held_back(*arguments: Any) -> Any:
        assert may_write.wait(60)
        return write(*arguments)

    folder, model = checkpoint("qwen2", True)
    reference = reference_updates(model, steps=3)
    target = shared_folder()
    actor = make_actor(folder, cut or Cut())
    run_updates(actor, range(1), 2)
    actor.offload()  # the optimizer's state lies in one block of the host from here on
    actor.onload(gradients=False)
    with ExitStack() as stack:
        stack.enter_context(patch.object(background_save, "write_bucket", held_back))
        stack.callback(may_write.set)
        pending = actor.save(target)
        actor.onload()
        run_updates(actor, range(1, 3), 2)
        assert_weights_equal(actor, saved_weights(reference.weights[2], True), 2e-5)
        assert not pending.is_written() and not (target / ".metadata").exists()
        may_write.set()
        pending.finish()
        assert pending.is_written()
    dist.barrier()
    actor.load(target)
    assert_weights_equal(actor, saved_weights(reference.weights[0], True), 1e-5)
    run_updates(actor, range(1, 3), 2)
    assert_weights_equal(actor, saved_weights(reference.weights[2], True), 2e-5)


@CASES.add(1)
@CASES.add(2, cut=(Cut(), Cut(tp=2)))
def a_disk_that_fills_on_one_rank_fails_the_checkpoint_on_all(cut: Cut | None = None) -> None:
    import torch.distributed as dist

    from megatron_ar3po.actor import background_save

    def full(*arguments: Any) -> Any:
        raise OSError("No space left on device")

    folder, _ = checkpoint("qwen2", True)
    actor, target = make_actor(folder, cut or Cut()), shared_folder()
    words = ["could not be written"]
    if dist.get_rank() == 0:
        words.append("No space left on device")
    with ExitStack() as stack:
        if dist.get_rank() == dist.get_world_size() - 1:
            stack.enter_context(patch.object(background_save, "write_bucket", full))
        with raises(RuntimeError, *words):
            actor.save(target).finish()
    assert not (target / ".metadata").exists()
