"""What lies in the files of a checkpoint: the same tensors whatever layout wrote them, those that Megatron's gathering
format would hold, and those of every package's Adam."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from actor_harness import (
    OF_2,
    Cut,
    assert_weights_equal,
    checkpoint,
    make_actor,
    run_updates,
    shared_folder,
)
from torch_reference import reference_updates
from torchrun_cases import Cases, raises

CASES = Cases()

ALL_OF_4 = (Cut(), Cut(tp=2), Cut(pp=2), Cut(tp=2, pp=2))


def _save(actor: Any) -> Path:
    """A checkpoint that every rank may read."""
    import torch.distributed as dist

    target = shared_folder()
    actor.save(target).finish()
    dist.barrier()
    return target


def _assert_same_tensors(folder: Path, other: Path) -> None:
    """Bit for bit, whatever pieces they lie in; settings and counters as well."""
    from megatron.core import dist_checkpointing

    ours, theirs = (dist_checkpointing.load_plain_tensors(str(f)) for f in (folder, other))
    assert ours.keys() == theirs.keys()
    assert sum(key.startswith("optimizer.state.exp_avg_sq.") for key in ours) > 5
    for key, value in ours.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == theirs[key].dtype, key
            assert torch.equal(value, theirs[key]), key
        else:
            assert value == theirs[key], (key, value, theirs[key])


@contextlib.contextmanager
def _saving_as_megatron() -> Iterator[None]:
    """Its own format that loads at any layout, as earlier versions wrote it: gathered on every rank."""
    from megatron_ar3po.actor import checkpoint as checkpoint_room

    def gather(one: Any, sharded: Any, *, is_loading: bool) -> Any:
        assert not is_loading
        metadata = {"distrib_optim_sharding_type": "fully_reshardable"}
        return one.sharded_state_dict(sharded, is_loading=False, metadata=metadata)

    with patch.object(checkpoint_room, "_optimizer_part", gather):
        yield


@CASES.add(4, saved_at=(Cut(), Cut(tp=2, pp=2)), loaded_at=(Cut(tp=2),), dtype=("bfloat16",))
@CASES.add(4, saved_at=(Cut(tp=2), Cut(pp=2)), loaded_at=(Cut(), Cut(tp=2, pp=2)))
def what_is_loaded_at_another_layout_is_saved_again_bit_for_bit(
    saved_at: Cut, loaded_at: Cut, dtype: str = "float32"
) -> None:
    """Over TP, PP and DP, ranges cut in the middle of rows among them; embeddings tied where there are stages."""
    _save_load_and_save_again(saved_at, loaded_at, dtype, tied=saved_at.pp == 2)


@CASES.add(
    4,
    exhaustive=True,
    saved_at=ALL_OF_4,
    loaded_at=ALL_OF_4,
    dtype=("float32", "bfloat16"),
    tied=(False, True),
)
def every_layout_saves_again_what_another_saved(
    saved_at: Cut, loaded_at: Cut, dtype: str, tied: bool
) -> None:
    _save_load_and_save_again(saved_at, loaded_at, dtype, tied)


def _save_load_and_save_again(saved_at: Cut, loaded_at: Cut, dtype: str, tied: bool) -> None:
    folder, _ = checkpoint("qwen2", tied)
    first = make_actor(folder, saved_at, dtype=dtype)
    run_updates(first, range(1), 1)
    saved = _save(first)
    second = make_actor(folder, loaded_at, dtype=dtype)
    run_updates(second, range(5, 6), 1)  # something else first: all of it must be overwritten
    second.load(saved)
    _assert_same_tensors(saved, _save(second))


@CASES.add(2, saved_at=OF_2[:3], loaded_at=(Cut(),))
@CASES.add(4, saved_at=(Cut(tp=2, pp=2),), loaded_at=(Cut(tp=2),))
def a_checkpoint_that_was_gathered_holds_the_same_and_loads(saved_at: Cut, loaded_at: Cut) -> None:
    folder, _ = checkpoint("qwen2", False)
    first = make_actor(folder, saved_at)
    run_updates(first, range(1), 1)
    with _saving_as_megatron():
        gathered = _save(first)
    _assert_same_tensors(gathered, _save(first))
    second = make_actor(folder, loaded_at)
    second.load(gathered)
    _assert_same_tensors(gathered, _save(second))


@CASES.add(4)
def a_checkpoint_with_shifted_optimizer_state_is_refused() -> None:
    """Tied embeddings at TP=2 x PP=2, saved as Megatron would by itself: what lies behind the first bucket's padding is
    shifted by it. Every rank says so; none trains on."""
    folder, _ = checkpoint("qwen2", True)
    first = make_actor(folder, Cut(tp=2, pp=2))
    run_updates(first, range(1), 1)
    with _saving_as_megatron():
        shifted = _save(first)
    second = make_actor(folder, Cut(tp=2))
    with raises(ValueError, "embedding.word_embeddings.weight", "actor.pipeline_parallel_size"):
        second.load(shifted)


class FusedAdam(torch.optim.Optimizer):
    """AdamW that keeps its state as Transformer Engine 2.11's FusedAdam does: moments that the first step makes, steps
    counted once in every group that has parameters, and a load that puts new tensors in the place of the old."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        *,
        adam_w_mode: bool,
    ) -> None:
        assert adam_w_mode
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            if not group["params"]:
                continue
            group["step"] = group.get("step", 0) + 1
            (beta1, beta2), step = group["betas"], group["step"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                state["exp_avg"].lerp_(p.grad, 1 - beta1)
                state["exp_avg_sq"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                root = (state["exp_avg_sq"] / (1 - beta2**step)).sqrt_().add_(group["eps"])
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.addcdiv_(state["exp_avg"], root, value=-group["lr"] / (1 - beta1**step))

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        for p, state in self.state.items():
            self.state[p] = {name: x.detach().clone() for name, x in state.items()}


@contextlib.contextmanager
def with_fused_adam() -> Iterator[None]:
    """Megatron finds it where it looks for Transformer Engine's."""
    from megatron.core import optimizer
    from megatron.core.optimizer import distrib_optimizer

    with (
        patch.object(optimizer, "Adam", FusedAdam),
        patch.object(optimizer, "USING_PYTORCH_OPTIMIZER", False),
        patch.object(distrib_optimizer, "Adam", FusedAdam),
        patch.object(distrib_optimizer, "HAVE_APEX_OR_TE", True),
        patch.object(distrib_optimizer, "USING_TE_OPTIMIZER", True),
    ):
        yield


@CASES.add(1, num_updates=(0, 1), distributed=(True, False))
@CASES.add(2, num_updates=(0, 1), distributed=(True,))
def a_checkpoint_of_fused_adam_continues(num_updates: int, distributed: bool) -> None:
    """Before its first update as well, when it has no moments and has counted no steps."""
    folder, model = checkpoint("qwen2", False)
    weights = reference_updates(model, steps=2).weights
    options = {"use_distributed_optimizer": distributed}
    with with_fused_adam():
        first = make_actor(folder, Cut(), actor=dict(options))
        run_updates(first, range(num_updates), 1)
        saved = _save(first)
        second = make_actor(folder, Cut(), actor=dict(options))
        (one,) = second.optimizer.inner.chained_optimizers
        assert isinstance(one.optimizer, FusedAdam)
        run_updates(second, range(5, 6), 1)
        second.load(saved)
        run_updates(second, range(num_updates, 2), 1)
    assert_weights_equal(second, weights[1], 1e-5)
