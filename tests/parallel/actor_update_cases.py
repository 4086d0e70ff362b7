"""Log-probs and updates of every layout, beside plain transformers."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from actor_harness import (
    OF_2,
    OF_4,
    Cut,
    assert_same_on_all_ranks,
    assert_weights_equal,
    checkpoint,
    export_tensors,
    make_actor,
    run_updates,
    saved_weights,
    shared_folder,
    training_batch,
)
from torch_reference import (
    LEARNING_RATE,
    MODELS,
    num_response_tokens,
    reference_logprobs,
    reference_updates,
    sequences,
)
from torchrun_cases import Cases, raises

from megatron_ar3po.records import Mean

CASES = Cases()
# What a micro-batch is made of: sequences end to end, or each padded to the longest.
ROWS = ("packed", "padded")
EMBEDDINGS = ("untied", "tied")


def _logprobs_match(architecture: str, tied: bool, cut: Cut, rows: str = "packed") -> None:
    folder, model = checkpoint(architecture, tied)
    actor = make_actor(folder, cut)
    layout = actor.layout
    seqs = sequences(0)
    batch = training_batch(seqs, layout.data_parallel_size, layout.dp_rank, 2, rows)
    filled = actor.compute_logprobs(batch)
    mine = seqs[layout.dp_rank :: layout.data_parallel_size]
    for i, micro_batch in enumerate(filled.micro_batches):
        if not layout.is_last_stage:
            assert micro_batch.old_logprobs is None
            continue
        got = micro_batch.old_logprobs
        assert got.dtype == torch.float32 and got.shape == micro_batch.loss_mask.shape
        assert (got[micro_batch.loss_mask == 0] == 0).all()
        with torch.no_grad():
            wanted = torch.cat([reference_logprobs(model, s.token_ids) for s in mine[i::2]])
        worst = (got[micro_batch.loss_mask > 0] - wanted).abs().max().item()
        assert worst <= 1e-5, f"log-probs differ by {worst:.2e}"


@CASES.add(1, pairwise=True, model=MODELS, tied=EMBEDDINGS, cut=(Cut(),), rows=ROWS)
@CASES.add(2, pairwise=True, model=MODELS, tied=EMBEDDINGS, cut=OF_2, rows=ROWS)
@CASES.add(4, pairwise=True, model=MODELS, tied=EMBEDDINGS, cut=OF_4[:2], rows=ROWS)
def logprobs_match_transformers(model: str, tied: str, cut: Cut, rows: str) -> None:
    _logprobs_match(model, tied == "tied", cut, rows)


def _updates_match(
    architecture: str,
    tied: bool,
    cut: Cut,
    num_micro: int,
    rows: str = "packed",
    **options: Any,
) -> None:
    folder, model = checkpoint(architecture, tied)
    reference = reference_updates(model, steps=2, kl_coef=options.get("kl_coef", 0.0))
    actor = make_actor(folder, cut, **options)
    stats = run_updates(actor, range(2), num_micro, rows)
    for got, loss, norm in zip(stats, reference.losses, reference.grad_norms, strict=True):
        assert abs(got.loss - loss) <= 1e-4, (got.loss, loss)
        assert abs(got.grad_norm - norm) <= 1e-4 * norm, (got.grad_norm, norm)
        ratio = got.token_records["actor/ratio_mean"]
        assert isinstance(ratio, Mean) and abs(ratio.value - 1) < 1e-6
        assert ratio.weight == num_response_tokens(sequences(0))
        assert got.learning_rate == LEARNING_RATE and not got.was_skipped
    assert_weights_equal(actor, saved_weights(reference.weights[-1], tied), 1e-5)
    assert_same_on_all_ranks(stats)


@CASES.add(
    1, pairwise=True, model=MODELS, tied=EMBEDDINGS, cut=(Cut(),), num_micro=(1, 4), rows=ROWS
)
@CASES.add(2, pairwise=True, model=MODELS, tied=EMBEDDINGS, cut=OF_2, num_micro=(1, 4), rows=ROWS)
@CASES.add(4, pairwise=True, model=MODELS, tied=EMBEDDINGS, cut=OF_4, num_micro=(1, 4), rows=ROWS)
def two_updates_match_the_reference(
    model: str, tied: str, cut: Cut, num_micro: int, rows: str
) -> None:
    """Every layout with every model, tied and not, 1 and 4 micro-batches, packed and padded: each two of them meet."""
    _updates_match(model, tied == "tied", cut, num_micro, rows)


@CASES.add(
    1, exhaustive=True, model=MODELS, tied=EMBEDDINGS, cut=(Cut(),), num_micro=(1, 4), rows=ROWS
)
@CASES.add(2, exhaustive=True, model=MODELS, tied=EMBEDDINGS, cut=OF_2, num_micro=(1, 4), rows=ROWS)
@CASES.add(4, exhaustive=True, model=MODELS, tied=EMBEDDINGS, cut=OF_4, num_micro=(1, 4), rows=ROWS)
def every_combination_of_two_updates(
    model: str, tied: str, cut: Cut, num_micro: int, rows: str
) -> None:
    _logprobs_match(model, tied == "tied", cut, rows)
    _updates_match(model, tied == "tied", cut, num_micro, rows)


@CASES.add(1)
def updates_with_full_recompute_are_the_same() -> None:
    _updates_match("qwen2", False, Cut(), 2, actor={"recompute": "full"})


@CASES.add(2, cut=OF_2[:2])
def updates_without_the_distributed_optimizer_are_the_same(cut: Cut) -> None:
    _updates_match("qwen2", False, cut, 2, actor={"use_distributed_optimizer": False})


@CASES.add(1)
@CASES.add(2, cut=OF_2)
def the_kl_to_the_reference_policy_is_that_of_the_first_weights(cut: Cut | None = None) -> None:
    _updates_match("qwen2", False, cut or Cut(), 2, kl_coef=0.1)


@CASES.add(1)
def bf16_trains_close_to_fp32() -> None:
    folder, model = checkpoint("qwen2", False)
    reference = reference_updates(model, steps=2)
    actor = make_actor(folder, Cut(), dtype="bfloat16")
    stats = run_updates(actor, range(2), 2)
    assert abs(stats[0].grad_norm - reference.grad_norms[0]) <= 0.05 * reference.grad_norms[0]
    assert_weights_equal(actor, reference.weights[-1], 1e-2)  # one bf16 step at 1 is 8e-3


@CASES.add(1)
@CASES.add(2, cut=(Cut(), Cut(tp=2)))
def bf16_keeps_fp32_main_weights(cut: Cut | None = None) -> None:
    """Twenty steps of 2e-5 in one direction on weights of about 0.1, where one bf16 step is 5e-4: in bf16 alone nearly
    none of them would ever be seen. The main weights move, and the model's are those, rounded."""
    folder, _ = checkpoint("qwen2", False)
    actor = make_actor(
        folder, cut or Cut(), dtype="bfloat16", actor={"learning_rate": 2e-5, "weight_decay": 0.0}
    )
    before = export_tensors(actor)
    for _ in range(20):
        run_updates(actor, range(1), 1)
    for one in actor.optimizer.inner.chained_optimizers:
        for group in one.optimizer.param_groups:
            assert all(p.dtype == torch.float32 for p in group["params"])
    assert all(p.dtype == torch.bfloat16 for p in actor.policy.parameters())
    moved = {n: (x != before[n]).float().mean().item() for n, x in export_tensors(actor).items()}
    if actor.layout.is_leader:
        matrices = [share for n, share in moved.items() if "proj.weight" in n]
        assert min(matrices) > 0.4, moved


@CASES.add(2, cut=OF_2)
@CASES.add(4, cut=OF_4)
def ranks_and_micro_batches_without_loss_change_nothing(cut: Cut) -> None:
    """Eleven micro-batches for eight sequences: every rank has dummy rows, at DP some have nothing else in places."""
    _updates_match("qwen2", True, cut, num_micro=11)


INPUTS = ("advantages", "old_logprobs", "behaviour_logprobs")
VALUES = (float("nan"), float("-inf"))
WARM_UP = {"lr_warmup_steps": 4}


def _spoil(batch: Any, name: str, value: float) -> Any:
    """`value` at the last response token of this rank's last micro-batch."""
    mini = batch.mini_batches[0]
    last = mini.micro_batches[-1]
    spoilt = getattr(last, name).clone()
    spoilt[last.loss_mask.nonzero()[-1]] = value
    micro_batches = (*mini.micro_batches[:-1], dataclasses.replace(last, **{name: spoilt}))
    return dataclasses.replace(mini, micro_batches=micro_batches)


def _two_updates(
    folder: Path, cut: Cut, **options: Any
) -> tuple[list[Any], dict[str, torch.Tensor]]:
    actor = make_actor(folder, cut, actor=dict(WARM_UP), **options)
    return run_updates(actor, range(2), 2), export_tensors(actor)


def _assert_untouched_and_goes_on(
    actor: Any, before: dict[str, torch.Tensor], never_skipped: tuple[list[Any], dict[str, Any]]
) -> None:
    """The next two updates are those of an actor that never skipped one: weights, moments, step count and rate."""
    assert_weights_equal(actor, before, 0.0)
    stats, weights = never_skipped
    assert run_updates(actor, range(2), 2) == stats
    assert [s.learning_rate for s in stats] == [LEARNING_RATE / 4, LEARNING_RATE / 2]
    assert_weights_equal(actor, weights, 0.0)


@CASES.add(1, name=INPUTS, value=VALUES)
@CASES.add(2, pairwise=True, name=INPUTS, value=VALUES, cut=OF_2)
def a_value_that_is_not_finite_on_one_rank_skips_the_update_on_all(
    name: str, value: float, cut: Cut | None = None
) -> None:
    """On the last rank alone, where replicas differ."""
    folder, _ = checkpoint("qwen2", False)
    options = {"importance_sampling": "token"}
    never_skipped = _two_updates(folder, cut or Cut(), **options)
    actor = make_actor(folder, cut or Cut(), actor=dict(WARM_UP), **options)
    before = export_tensors(actor)
    layout = actor.layout
    dp, dp_rank = layout.data_parallel_size, layout.dp_rank
    batch = actor.compute_logprobs(training_batch(sequences(0), dp, dp_rank, 2))
    mini = batch.mini_batches[0]
    if dp_rank == dp - 1 and (layout.is_last_stage or name != "old_logprobs"):
        mini = _spoil(batch, name, value)
    stats = actor.update(mini)
    assert stats.was_skipped and not stats.records
    assert_same_on_all_ranks(repr(stats))
    _assert_untouched_and_goes_on(actor, before, never_skipped)


@CASES.add(1)
@CASES.add(2, cut=OF_2)
def a_gradient_that_is_not_finite_in_one_shard_skips_the_update_on_all(
    cut: Cut | None = None,
) -> None:
    import torch.distributed as dist

    folder, _ = checkpoint("qwen2", False)
    never_skipped = _two_updates(folder, cut or Cut())
    actor = make_actor(folder, cut or Cut(), actor=dict(WARM_UP))
    before = export_tensors(actor)
    layout = actor.layout
    batch = training_batch(sequences(0), layout.data_parallel_size, layout.dp_rank, 2)
    batch = actor.compute_logprobs(batch)
    spoilt = next(p for n, p in actor.policy.named_parameters() if n.endswith("linear_fc2.weight"))
    is_last = dist.get_rank() == dist.get_world_size() - 1
    hook = spoilt.register_hook(lambda gradient: gradient * (float("inf") if is_last else 1.0))
    stats = actor.update(batch.mini_batches[0])
    hook.remove()
    assert stats.was_skipped and math.isfinite(stats.loss)
    _assert_untouched_and_goes_on(actor, before, never_skipped)


@CASES.add(1)
@CASES.add(2, cut=OF_2[:3])
def a_loss_that_is_not_finite_skips_the_update_whatever_the_gradient(
    cut: Cut | None = None,
) -> None:
    from megatron_ar3po.actor.forward_step import run_schedule

    folder, _ = checkpoint("qwen2", False)
    never_skipped = _two_updates(folder, cut or Cut())
    actor = make_actor(folder, cut or Cut(), actor=dict(WARM_UP))
    before = export_tensors(actor)
    layout = actor.layout
    batch = training_batch(sequences(0), layout.data_parallel_size, layout.dp_rank, 2)
    micro_batches = actor.compute_logprobs(batch).mini_batches[0].micro_batches
    actor.model.zero_grad_buffer()
    run_schedule(actor.model, micro_batches, actor._loss, forward_only=False)
    step = actor.optimizer.step(float("inf"))
    assert step.was_skipped and math.isfinite(step.grad_norm)
    _assert_untouched_and_goes_on(actor, before, never_skipped)


@CASES.add(1)
def weights_do_not_depend_on_the_chunk_of_the_output_layer() -> None:
    folder, _ = checkpoint("qwen2", True)
    results = []
    for chunk in (1, 10_000):
        actor = make_actor(folder, Cut(), actor={"logprob_chunk_tokens": chunk}, entropy_coef=0.01)
        run_updates(actor, range(2), 2)
        results.append(export_tensors(actor))
    for name, tensor in results[0].items():
        assert (tensor - results[1][name]).abs().max() <= 1e-5, name


@CASES.add(1)
def a_bonus_given_to_one_update_trains_as_that_of_the_config() -> None:
    folder, _ = checkpoint("qwen2", True)
    weights = []
    for of_config, of_update in ((0.01, None), (0.0, 0.01), (0.01, 0.0), (0.0, None)):
        actor = make_actor(folder, Cut(), actor=dict(WARM_UP), entropy_coef=of_config)
        layout = actor.layout
        batch = training_batch(sequences(0), layout.data_parallel_size, layout.dp_rank, 2)
        (mini, *_) = actor.compute_logprobs(batch).mini_batches
        stats = actor.update(mini, entropy_coef=of_update)
        assert "actor/entropy" in stats.token_records
        weights.append(export_tensors(actor))
    with_config, with_update, without, plain = weights
    assert all(torch.equal(tensor, with_update[name]) for name, tensor in with_config.items())
    assert all(torch.equal(tensor, plain[name]) for name, tensor in without.items())
    assert any(not torch.equal(tensor, plain[name]) for name, tensor in with_config.items())


@CASES.add(2, cut=OF_2[:2])
def a_value_that_is_not_finite_in_one_shard_stops_every_rank(cut: Cut) -> None:
    import torch.distributed as dist

    _, model = checkpoint("qwen2", False)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 95] = float("inf")  # the last rank's part
    folder = shared_folder()
    model.save_pretrained(folder)
    dist.barrier()
    with raises(ValueError, "model.layers.1.mlp.down_proj.weight"):
        make_actor(folder, cut)


@CASES.add(1)
def a_layout_that_cannot_cut_the_model_says_which_can() -> None:
    from megatron_ar3po.distributed.layout import ParallelLayout
    from megatron_ar3po.model_shape import read_policy_shape

    folder, _ = checkpoint("qwen2", False)
    layout = ParallelLayout(world_size=4, tensor_parallel_size=4)
    found = "actor.tensor_parallel_size=4 does not divide num_key_value_heads=2"
    with raises(ValueError, found, "use 1, 2."):
        read_policy_shape(folder).check_layout(layout)
