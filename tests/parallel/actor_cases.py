"""The actor under real process groups: every case of one world size in one program.

    torchrun --nproc-per-node W tests/parallel/actor_cases.py RESULTS.jsonl [NAME ...]

Rank 0 writes one line per case: {"case", "ok", "detail", "seconds"}. test_actor_layouts.py starts it and reports the
cases one by one; it imports this file for their names, so everything heavy is imported inside.

The reference is transformers with torch's AdamW, one sequence at a time: neither Megatron nor packing has a part in it.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

CASES: dict[int, dict[str, Callable[[], None]]] = {1: {}, 2: {}, 4: {}}
EXHAUSTIVE: set[str] = (
    set()
)  # every combination, for make chaos; make test runs a covering selection
LEARNING_RATE, WEIGHT_DECAY, CLIP_GRAD, TEMPERATURE = 1e-3, 0.01, 0.5, 0.8
# AdamW turns a gradient of 1e-8, which is rounding, into a whole step. With a larger eps the comparison is about sums.
ADAM_EPS = 1e-5
LENGTHS = (9, 23, 14, 6, 17, 12, 40, 8)  # two packs' worth of unequal sequences
PROMPT = 4


def case(
    *world_sizes: int,
    exhaustive: bool = False,
    pairwise: bool = False,
    into: dict[int, dict[str, Callable[[], None]]] = CASES,
    **variants: Sequence[Any],
) -> Callable[[Callable[..., None]], Any]:
    """Registers a function under its name; with `layout=[...]` and the like once per value. `pairwise`: not every
    combination, but every two values of two variants meet in one of them."""
    rows = list(_combinations(variants))
    if pairwise:
        rows = _covering(rows)

    def register(function: Callable[..., None]) -> Callable[..., None]:
        for world_size in world_sizes:
            for chosen in rows:
                label = "-".join(_label(v) for v in chosen.values())
                name = function.__name__ + (f"[{label}]" if label else "")
                into[world_size][name] = lambda f=function, c=chosen: f(**c)
                if exhaustive:
                    EXHAUSTIVE.add(name)
        return function

    return register


def _combinations(variants: dict[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    if not variants:
        yield {}
        return
    (name, values), *rest = variants.items()
    for value in values:
        for other in _combinations(dict(rest)):
            yield {name: value, **other}


def _covering(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few of `rows` in which every pair of values that occurs in them occurs; the richest row first."""

    def pairs(row: dict[str, Any]) -> set[Any]:
        return set(itertools.combinations(sorted((n, _label(v)) for n, v in row.items()), 2))

    missing = set().union(*map(pairs, rows))
    chosen = []
    while missing:
        best = max(rows, key=lambda row: len(pairs(row) & missing))
        chosen.append(best)
        missing -= pairs(best)
    return chosen


def _label(value: Any) -> str:
    return value.label if isinstance(value, Cut) else str(value)


@dataclasses.dataclass(frozen=True)
class Cut:
    tp: int = 1
    pp: int = 1
    sp: bool = False

    @property
    def label(self) -> str:
        return f"tp{self.tp}pp{self.pp}" + ("sp" if self.sp else "")


# Layouts of a world; what tp and pp leave over is dp.
OF_2 = (Cut(tp=2), Cut(pp=2), Cut(), Cut(tp=2, sp=True))
MODELS = ("qwen2", "qwen3", "llama")
OF_4 = (Cut(tp=2, pp=2), Cut(tp=2, pp=2, sp=True), Cut(tp=2), Cut(pp=2))
# What a micro-batch is made of: sequences end to end, or each filled up to the longest.
ROWS = ("packed", "padded")
EMBEDDINGS = ("untied", "tied")


# ------------------------------------------------------------------------------------ fixtures


def hf_model(architecture: str, tied: bool, seed: int = 0) -> Any:
    import transformers

    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "vocab_size": 300,
        "max_position_embeddings": 128,
        "tie_word_embeddings": tied,
        "initializer_range": 0.1,
    }
    llama3 = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "low_freq_factor": 1.5,
        "high_freq_factor": 5.0,
        "original_max_position_embeddings": 32,
    }
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    kind, config = {
        "qwen2": lambda: ("Qwen2", transformers.Qwen2Config(rope_parameters=plain, **sizes)),
        "qwen3": lambda: (
            "Qwen3",
            transformers.Qwen3Config(rope_parameters=plain, head_dim=32, **sizes),
        ),
        "llama": lambda: ("Llama", transformers.LlamaConfig(rope_parameters=llama3, **sizes)),
    }[architecture]()
    torch.manual_seed(seed)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    with (
        torch.no_grad()
    ):  # transformers starts norms at 1 and biases at 0, which would hide a mix-up
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


_folders: dict[tuple[str, bool], tuple[Path, Any]] = {}


def shared_folder() -> Path:
    """A new folder, the same on every rank."""
    import torch.distributed as dist

    box = [tempfile.mkdtemp(dir=os.environ["CASES_DIR"]) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box, src=0)
    return Path(str(box[0]))


def checkpoint(architecture: str, tied: bool) -> tuple[Path, Any]:
    """(folder, a fresh copy of the model). transformers writes on rank 0 alone."""
    import torch.distributed as dist

    key = (architecture, tied)
    if key not in _folders:
        folder, model = shared_folder(), hf_model(architecture, tied)
        model.save_pretrained(folder)
        dist.barrier()
        _folders[key] = (folder, model)
    folder, model = _folders[key]
    return folder, copy.deepcopy(model)


def make_actor(folder: Path, cut: Cut, **overrides: Any) -> Any:
    import torch.distributed as dist

    from megatron_ar3po.actor.megatron_actor import MegatronActor
    from megatron_ar3po.config import schema
    from megatron_ar3po.distributed.layout import ParallelLayout

    from megatron.core import parallel_state  # isort: skip  behind the actor, which prepares it

    if parallel_state.model_parallel_is_initialized():
        # Megatron only forgets its groups; each keeps polling threads that slow every later case down.
        for group in parallel_state._global_process_group_list or []:
            if group is not None and group is not dist.group.WORLD:
                dist.destroy_process_group(group)
        parallel_state.destroy_model_parallel()
    actor_options: dict[str, Any] = {
        "tensor_parallel_size": cut.tp,
        "pipeline_parallel_size": cut.pp,
        "sequence_parallel": cut.sp,
        "learning_rate": LEARNING_RATE,
        "weight_decay": WEIGHT_DECAY,
        "clip_grad": CLIP_GRAD,
        "adam_eps": ADAM_EPS,
        "logprob_chunk_tokens": 13,
        **overrides.pop("actor", {}),
    }
    config = schema.Config(
        run=schema.RunConfig(num_steps=10, collective_timeout_s=60),
        model=schema.ModelConfig(
            path=str(folder),
            dtype=overrides.pop("dtype", "float32"),
            megatron_path=overrides.pop("megatron_path", ""),
        ),
        actor=schema.ActorConfig(**actor_options),
        rollout=schema.RolloutConfig(temperature=TEMPERATURE),
        algorithm=schema.AlgorithmConfig(**overrides),
    )
    layout = ParallelLayout(
        world_size=dist.get_world_size(),
        rank=dist.get_rank(),
        tensor_parallel_size=cut.tp,
        pipeline_parallel_size=cut.pp,
    )
    return MegatronActor(config, layout)


@dataclasses.dataclass(frozen=True)
class Sequence_:
    token_ids: torch.Tensor
    advantage: float


def sequences(seed: int) -> list[Sequence_]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Sequence_(
            torch.randint(0, 300, (n,), generator=generator),
            float(torch.randn((), generator=generator)),
        )
        for n in LENGTHS
    ]


def num_response_tokens(seqs: Sequence[Sequence_]) -> int:
    return sum(len(s.token_ids) - PROMPT for s in seqs)


def pack(seqs: Sequence[Sequence_], total: int, rows: str = "packed") -> Any:
    """A micro-batch; no sequences: the weightless filler. A padded row ends in tokens that weigh nothing."""
    from megatron_ar3po.types import MicroBatch

    is_filler = not seqs
    seqs = seqs or [Sequence_(torch.zeros(2, dtype=torch.long), 0.0)]
    real = [len(s.token_ids) for s in seqs]
    lengths = [max(real)] * len(real) if rows == "padded" else real
    places = [torch.arange(n) for n in lengths]
    masks = [((p >= PROMPT - 1) & (p < n - 1)).float() for p, n in zip(places, real, strict=True)]
    mask = torch.cat(masks) * (0.0 if is_filler else 1.0)
    tokens = torch.cat(
        [
            torch.nn.functional.pad(s.token_ids, (0, n - len(s.token_ids)), value=7)
            for s, n in zip(seqs, lengths, strict=True)
        ]
    )
    number = torch.repeat_interleave(torch.arange(len(seqs)), torch.tensor(lengths))
    advantages = torch.tensor([s.advantage for s in seqs])[number]
    nothing = torch.zeros(len(tokens), dtype=torch.bool)
    behaviour = -5.0 + 0.5 * torch.sin(tokens.float())
    return MicroBatch(
        token_ids=tokens,
        position_ids=torch.cat(places),
        cu_seqlens=torch.tensor([0, *lengths]).cumsum(0).int(),
        sequence_ids=number,
        target_ids=torch.where(mask > 0, tokens.roll(-1), 0),
        loss_mask=mask,
        advantages=advantages * mask,
        weights=mask / total,
        behaviour_logprobs=behaviour * mask,
        is_reused=nothing,
        uses_stored_logprobs=nothing,
    )


def training_batch(
    seqs: Sequence[Sequence_], dp: int, dp_rank: int, num_micro: int, rows: str = "packed"
) -> Any:
    """This rank's share of one mini-batch: `num_micro` micro-batches on every rank, fillers where sequences run out."""
    from megatron_ar3po.types import MiniBatch, TrainingBatch

    total = num_response_tokens(seqs)
    mine = list(seqs)[dp_rank::dp]
    micro = tuple(pack(mine[i::num_micro], total, rows) for i in range(num_micro))
    mini = MiniBatch(micro_batches=micro, num_units=total, num_sequences=len(seqs))
    return TrainingBatch(mini_batches=(mini,), num_samples=len(seqs), num_tokens=sum(LENGTHS))


def reference_logprobs(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """[response tokens], of the temperature-scaled model."""
    logits = model(tokens[None]).logits[0, PROMPT - 1 : -1] / TEMPERATURE
    return logits.log_softmax(-1).gather(-1, tokens[PROMPT:, None])[:, 0]


@dataclasses.dataclass(frozen=True)
class Reference:
    losses: list[float]
    grad_norms: list[float]
    weights: list[dict[str, torch.Tensor]]  # after each update


def reference_updates(
    model: Any, steps: int, kl_coef: float = 0.0, refresh_after: int = -1
) -> Reference:
    """Policy gradient at ratio 1 (old = current), clipped AdamW, no decay of vectors. The policy after update
    `refresh_after` becomes the reference of the KL."""
    frozen = copy.deepcopy(model)
    named = dict(model.named_parameters())
    matrices = [p for p in named.values() if p.ndim > 1]
    vectors = [p for p in named.values() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": WEIGHT_DECAY},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=(0.9, 0.95),
        eps=ADAM_EPS,
    )
    result = Reference([], [], [])
    for step in range(steps):
        seqs = sequences(step)
        optimizer.zero_grad()
        loss = torch.zeros(())
        for s in seqs:
            logprobs = reference_logprobs(model, s.token_ids)
            loss = loss - (s.advantage * (logprobs - logprobs.detach()).exp()).sum()
            if kl_coef:
                with torch.no_grad():
                    before = reference_logprobs(frozen, s.token_ids)
                difference = before - logprobs
                loss = loss + kl_coef * (difference.exp() - difference - 1).sum()  # k3
        loss = loss / num_response_tokens(seqs)
        loss.backward()
        result.losses.append(loss.item())
        result.grad_norms.append(torch.nn.utils.clip_grad_norm_(named.values(), CLIP_GRAD).item())
        optimizer.step()
        if step == refresh_after:
            frozen = copy.deepcopy(model)
        result.weights.append({n: p.detach().clone() for n, p in named.items()})
    return result


def exported(actor: Any, max_bytes: int = 50_000) -> dict[str, torch.Tensor]:
    """HF tensors on leaders (copied: a bucket's tensors are valid until the next), {} elsewhere."""
    return {n: x.clone() for bucket in actor.hf_buckets(max_bytes) for n, x in bucket}


def assert_weights_equal(actor: Any, expected: dict[str, torch.Tensor], tolerance: float) -> None:
    got = exported(actor)
    if not actor.layout.is_leader:
        assert not got
        return
    assert got.keys() == expected.keys(), got.keys() ^ expected.keys()
    for name, tensor in expected.items():
        assert got[name].shape == tensor.shape, name
        worst = (got[name].float() - tensor).abs().max().item()
        assert worst <= tolerance, f"{name} differs by {worst:.2e}"


def run_updates(actor: Any, steps: range, num_micro: int, rows: str = "packed") -> list[Any]:
    stats = []
    for step in steps:
        layout = actor.layout
        batch = training_batch(
            sequences(step), layout.data_parallel_size, layout.dp_rank, num_micro, rows
        )
        batch = actor.compute_logprobs(batch)
        stats.append(actor.update(batch.mini_batches[0]))
    return stats


# --------------------------------------------------------------------------------------- cases


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


@case(1, pairwise=True, model=MODELS, tied=EMBEDDINGS, cut=(Cut(),), rows=ROWS)
@case(2, pairwise=True, model=MODELS, tied=EMBEDDINGS, cut=OF_2, rows=ROWS)
@case(4, pairwise=True, model=MODELS, tied=EMBEDDINGS, cut=OF_4[:2], rows=ROWS)
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
        total, count = got.sums["actor/ratio_mean"]
        assert count == num_response_tokens(sequences(0)) and abs(total / count - 1) < 1e-6
        assert got.learning_rate == LEARNING_RATE and not got.was_skipped
    assert_weights_equal(actor, _saved_names(reference.weights[-1], tied), 1e-5)
    _assert_same_on_all_ranks(stats)


def _saved_names(weights: dict[str, torch.Tensor], tied: bool) -> dict[str, torch.Tensor]:
    return {n: x for n, x in weights.items() if not (tied and n == "lm_head.weight")}


def _assert_same_on_all_ranks(value: Any) -> None:
    import torch.distributed as dist

    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, value)
    assert all(other == value for other in everyone)


@case(1, pairwise=True, model=MODELS, tied=EMBEDDINGS, cut=(Cut(),), num_micro=(1, 4), rows=ROWS)
@case(2, pairwise=True, model=MODELS, tied=EMBEDDINGS, cut=OF_2, num_micro=(1, 4), rows=ROWS)
@case(4, pairwise=True, model=MODELS, tied=EMBEDDINGS, cut=OF_4, num_micro=(1, 4), rows=ROWS)
def two_updates_match_the_reference(
    model: str, tied: str, cut: Cut, num_micro: int, rows: str
) -> None:
    """Every layout with every model, tied and not, 1 and 4 micro-batches, packed and padded: each two of them meet."""
    _updates_match(model, tied == "tied", cut, num_micro, rows)


@case(1, exhaustive=True, model=MODELS, tied=EMBEDDINGS, cut=(Cut(),), num_micro=(1, 4), rows=ROWS)
@case(2, exhaustive=True, model=MODELS, tied=EMBEDDINGS, cut=OF_2, num_micro=(1, 4), rows=ROWS)
@case(4, exhaustive=True, model=MODELS, tied=EMBEDDINGS, cut=OF_4, num_micro=(1, 4), rows=ROWS)
def every_combination_of_two_updates(
    model: str, tied: str, cut: Cut, num_micro: int, rows: str
) -> None:
    _logprobs_match(model, tied == "tied", cut, rows)
    _updates_match(model, tied == "tied", cut, num_micro, rows)


@case(1)
def updates_with_full_recompute_are_the_same() -> None:
    _updates_match("qwen2", False, Cut(), 2, actor={"recompute": "full"})


@case(2, cut=OF_2[:2])
def updates_without_the_distributed_optimizer_are_the_same(cut: Cut) -> None:
    _updates_match("qwen2", False, cut, 2, actor={"use_distributed_optimizer": False})


@case(1)
@case(2, cut=OF_2)
def the_kl_to_the_reference_policy_is_that_of_the_first_weights(cut: Cut | None = None) -> None:
    _updates_match("qwen2", False, cut or Cut(), 2, kl_coef=0.1)


@case(1, refresh=(True, False))
@case(2, cut=OF_2[:3], refresh=(True,))
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


@case(1)
def bf16_trains_close_to_fp32() -> None:
    folder, model = checkpoint("qwen2", False)
    reference = reference_updates(model, steps=2)
    actor = make_actor(folder, Cut(), dtype="bfloat16")
    stats = run_updates(actor, range(2), 2)
    assert abs(stats[0].grad_norm - reference.grad_norms[0]) <= 0.05 * reference.grad_norms[0]
    assert_weights_equal(actor, reference.weights[-1], 1e-2)  # one bf16 step at 1 is 8e-3


@case(1)
@case(2, cut=(Cut(), Cut(tp=2)))
def bf16_keeps_fp32_main_weights(cut: Cut | None = None) -> None:
    """Twenty steps of 2e-5 in one direction on weights of about 0.1, where one bf16 step is 5e-4: in bf16 alone nearly
    none of them would ever be seen. The main weights move, and the model's are those, rounded."""
    folder, _ = checkpoint("qwen2", False)
    actor = make_actor(
        folder, cut or Cut(), dtype="bfloat16", actor={"learning_rate": 2e-5, "weight_decay": 0.0}
    )
    before = exported(actor)
    for _ in range(20):
        run_updates(actor, range(1), 1)
    for one in actor.optimizer.inner.chained_optimizers:
        for group in one.optimizer.param_groups:
            assert all(p.dtype == torch.float32 for p in group["params"])
    assert all(p.dtype == torch.bfloat16 for p in actor.policy.parameters())
    moved = {n: (x != before[n]).float().mean().item() for n, x in exported(actor).items()}
    if actor.layout.is_leader:
        matrices = [share for n, share in moved.items() if "proj.weight" in n]
        assert min(matrices) > 0.4, moved


@case(2, cut=OF_2)
@case(4, cut=OF_4)
def ranks_and_micro_batches_without_loss_change_nothing(cut: Cut) -> None:
    """Eleven micro-batches for eight sequences: every rank has fillers, at DP some have fillers only in places."""
    _updates_match("qwen2", True, cut, num_micro=11)


@case(1)
def a_non_finite_gradient_leaves_weights_and_moments_alone() -> None:
    folder, model = checkpoint("qwen2", False)
    actor = make_actor(folder, Cut())
    before = exported(actor)
    batch = actor.compute_logprobs(training_batch(sequences(0), 1, 0, 2))
    first, second = batch.mini_batches[0].micro_batches
    broken = dataclasses.replace(second, advantages=second.advantages * float("nan"))
    mini = dataclasses.replace(batch.mini_batches[0], micro_batches=(first, broken))
    assert actor.update(mini).was_skipped
    assert_weights_equal(actor, before, 0.0)
    reference = reference_updates(model, steps=1)
    run_updates(actor, range(1), 2)
    assert_weights_equal(actor, reference.weights[0], 1e-5)


@case(1)
def weights_do_not_depend_on_the_chunk_of_the_output_layer() -> None:
    folder, _ = checkpoint("qwen2", True)
    results = []
    for chunk in (1, 10_000):
        actor = make_actor(folder, Cut(), actor={"logprob_chunk_tokens": chunk}, entropy_coef=0.01)
        run_updates(actor, range(2), 2)
        results.append(exported(actor))
    for name, tensor in results[0].items():
        assert (tensor - results[1][name]).abs().max() <= 1e-5, name


def _round_trip(architecture: str, tied: bool, cut: Cut) -> None:
    folder, model = checkpoint(architecture, tied)
    expected = _saved_names(dict(model.named_parameters()), tied)
    actor = make_actor(folder, cut)
    for max_bytes in (1, 50_000, 1 << 30):
        buckets = list(actor.hf_buckets(max_bytes))  # as many on every rank
        _assert_same_on_all_ranks(len(buckets))
    assert_weights_equal(actor, {n: p.detach() for n, p in expected.items()}, 0.0)


@case(1, model=MODELS, tied=(False, True))
def hf_to_megatron_to_hf_is_exact(model: str, tied: bool) -> None:
    _round_trip(model, tied, Cut())


@case(2, model=MODELS, cut=OF_2[:3])
@case(4, model=MODELS, cut=(OF_4[0], OF_4[2]))
def hf_to_megatron_to_hf_is_exact_at(model: str, cut: Cut) -> None:
    _round_trip(model, model == "llama", cut)


@case(1)
@case(2, cut=OF_2[:3])
def the_exported_folder_loads_in_transformers(cut: Cut | None = None) -> None:
    import torch.distributed as dist
    import transformers

    folder, model = checkpoint("qwen2", True)
    actor = make_actor(folder, cut or Cut())
    run_updates(actor, range(2), 2)
    target = shared_folder() / "exported"
    actor.export_hf(target)
    dist.barrier()
    loaded = transformers.AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    expected = reference_updates(model, steps=2).weights[-1]
    for name, parameter in loaded.named_parameters():
        assert (parameter - expected[name]).abs().max() <= 1e-5, name


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
    assert_weights_equal(second, _saved_names(reference.weights[1], tied), 1e-5)
    (stats,) = run_updates(second, range(2, 3), 2)
    assert abs(stats.grad_norm - reference.grad_norms[2]) <= 1e-3 * reference.grad_norms[2]
    assert_weights_equal(second, _saved_names(reference.weights[2], tied), 2e-5)


@case(1)
def a_checkpoint_continues_as_if_nothing_had_happened() -> None:
    _checkpoint_continues(Cut(), Cut(), tied=True)


def _steps_counted(actor: Any) -> list[float]:
    return [
        float(state["step"])
        for one in actor.optimizer.inner.chained_optimizers
        for state in one.optimizer.state.values()
    ]


@case(1, distributed=(True, False))
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
    try:
        assert_weights_equal(actor, reference_updates(model, steps=3).weights[2], 2e-5)
    except AssertionError:
        return
    raise AssertionError("a shared step changes the weights, and this comparison did not see it")


@case(1, dtype=("float32", "bfloat16"))
@case(2, dtype=("float32", "bfloat16"), cut=(Cut(),))
def updates_are_the_same_when_the_optimizer_goes_away_in_between(
    dtype: str, cut: Cut | None = None
) -> None:
    """Colocation moves its state to the host and back around every rollout. In fp32 its parameters are views of the
    model's: moved, the optimizer would train a copy. In bf16 they are the fp32 main weights."""
    folder, _ = checkpoint("qwen2", False)
    stays = make_actor(folder, cut or Cut(), dtype=dtype)
    run_updates(stays, range(2), 2)
    expected = exported(stays)
    goes = make_actor(folder, cut or Cut(), dtype=dtype)
    run_updates(goes, range(1), 2)
    away = goes.optimizer_offload
    away.away()
    moved = sum(x.numel() for x in away._moved)
    mine = sum(p.numel() for p in goes.policy.parameters())
    assert moved == 0 if dtype == "float32" else 0 < moved <= mine, moved
    assert len(away._moved_state) > 0
    away.back()
    run_updates(goes, range(1, 2), 2)
    assert_weights_equal(goes, {n: x.float() for n, x in expected.items()}, 0.0)


@case(1)
@case(2, cut=OF_2[:2])
def a_checkpoint_of_the_plain_optimizer_continues_as_well(cut: Cut | None = None) -> None:
    plain = {"use_distributed_optimizer": False}
    _checkpoint_continues(cut or Cut(), Cut(), tied=True, actor=plain)


@case(1, distributed=(True, False))
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


@case(2, saved_at=OF_2[:3], loaded_at=OF_2[:3])
def a_checkpoint_continues_at_another_layout(saved_at: Cut, loaded_at: Cut) -> None:
    _checkpoint_continues(saved_at, loaded_at, tied=saved_at.pp == 2)


@case(4, saved_at=(OF_4[0],), loaded_at=(OF_4[0], Cut(tp=2), Cut(pp=2), Cut()), tied=(False, True))
def a_checkpoint_of_four_ranks_continues_at_another_layout(
    saved_at: Cut, loaded_at: Cut, tied: bool
) -> None:
    _checkpoint_continues(saved_at, loaded_at, tied=tied)


@case(4)
def a_checkpoint_with_shifted_optimizer_state_is_refused() -> None:
    """Tied embeddings at TP=2 x PP=2, saved as Megatron would by itself. Every rank says so; none trains on."""
    from megatron_ar3po.actor import checkpoint as checkpoint_room

    mend, checkpoint_room.mend_param_state = checkpoint_room.mend_param_state, lambda *_: None
    try:
        _checkpoint_continues(Cut(tp=2, pp=2), Cut(tp=2), tied=True)
    except ValueError as error:
        assert "embedding.word_embeddings.weight" in str(error)
        assert "actor.pipeline_parallel_size" in str(error)
    else:
        raise AssertionError(
            "loaded, although the state of the embedding is shifted by its padding"
        )
    finally:
        checkpoint_room.mend_param_state = mend


@case(1)
@case(2, cut=(Cut(), Cut(tp=2)))
def a_checkpoint_is_that_of_its_moment_while_training_goes_on(cut: Cut | None = None) -> None:
    """The files are held back until two more updates are done; on the host a checkpoint that took no copies would hold
    those. Then it loads, and the run it continues is the one of that moment."""
    import threading

    import torch.distributed as dist
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    writer: Any = filesystem_async.FileSystemWriterAsync
    write, may_write = writer.write_preloaded_data, threading.Event()

    def held_back(*arguments: Any) -> None:
        assert may_write.wait(60)
        write(*arguments)

    folder, model = checkpoint("qwen2", True)
    reference = reference_updates(model, steps=3)
    target = shared_folder()
    actor = make_actor(folder, cut or Cut())
    run_updates(actor, range(1), 2)
    writer.write_preloaded_data = staticmethod(held_back)
    try:
        pending = actor.save(target)
        run_updates(actor, range(1, 3), 2)
        assert_weights_equal(actor, _saved_names(reference.weights[2], True), 2e-5)
        assert not pending.is_written() and not (target / ".metadata").exists()
        may_write.set()
        pending.finish()
        assert pending.is_written()
    finally:
        may_write.set()
        writer.write_preloaded_data = staticmethod(write)
    dist.barrier()
    actor.load(target)
    assert_weights_equal(actor, _saved_names(reference.weights[0], True), 1e-5)
    run_updates(actor, range(1, 3), 2)
    assert_weights_equal(actor, _saved_names(reference.weights[2], True), 2e-5)


@case(1)
@case(2, cut=(Cut(), Cut(tp=2)))
def a_disk_that_fills_on_one_rank_fails_the_checkpoint_on_all(cut: Cut | None = None) -> None:
    import torch.distributed as dist
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    writer: Any = filesystem_async.FileSystemWriterAsync
    write = writer.write_preloaded_data

    def full(transforms: Any, index: int, bucket: Any, results: Any, *_: Any) -> None:
        results.put((index, OSError("No space left on device")))

    folder, _ = checkpoint("qwen2", True)
    actor, target = make_actor(folder, cut or Cut()), shared_folder()
    if dist.get_rank() == dist.get_world_size() - 1:
        writer.write_preloaded_data = staticmethod(full)
    try:
        actor.save(target).finish()
    except RuntimeError as error:
        assert "could not be written" in str(error)
        if dist.get_rank() == 0:
            assert "No space left on device" in str(error)
    else:
        raise AssertionError("a checkpoint with a missing part was taken for whole")
    finally:
        writer.write_preloaded_data = staticmethod(write)
    assert not (target / ".metadata").exists()


@case(1, model=MODELS, tied=(False, True), cut=(Cut(),))
@case(2, model=("qwen3",), tied=(False, True), cut=OF_2[:3])
@case(4, model=("qwen2",), tied=(False, True), cut=OF_4[:1])
def a_converted_checkpoint_starts_the_actor_with_the_same_weights(
    model: str, tied: bool, cut: Cut
) -> None:
    folder, _ = checkpoint(model, tied)
    target = shared_folder() / "megatron"
    on_rank_0(
        lambda conversion: conversion.to_megatron(
            folder, target, part_bytes=50_000, report=lambda *_: None
        )
    )
    expected = exported(make_actor(folder, cut))
    assert_weights_equal(make_actor(folder, cut, megatron_path=str(target)), expected, 0.0)


@case(1, cut=(Cut(),), tied=(False, True))
@case(2, cut=OF_2[:3], tied=(True,))
@case(4, cut=OF_4[:1], tied=(False, True))
def a_training_checkpoint_of_any_layout_becomes_a_hugging_face_folder(cut: Cut, tied: bool) -> None:
    import torch.distributed as dist
    from safetensors.torch import load_file

    folder, _ = checkpoint("qwen2", tied)
    actor = make_actor(folder, cut)
    run_updates(actor, range(1), 2)
    saved, target = shared_folder(), shared_folder() / "hf"
    actor.save(saved).finish()
    dist.barrier()
    on_rank_0(
        lambda conversion: conversion.to_hf(
            saved, target, folder, file_bytes=50_000, report=lambda *_: None
        )
    )
    found = {n: x for f in target.glob("*.safetensors") for n, x in load_file(f).items()}
    assert_weights_equal(actor, found, 0.0)


def on_rank_0(convert: Callable[[Any], object]) -> None:
    """Conversion takes one process; the others wait for it."""
    import torch.distributed as dist

    from megatron_ar3po.actor import conversion

    if dist.get_rank() == 0:
        convert(conversion)
    dist.barrier()


@case(1)
def a_layout_that_cannot_cut_the_model_says_which_can() -> None:
    from megatron_ar3po.actor.model_shape import read_model_shape
    from megatron_ar3po.distributed.layout import ParallelLayout

    folder, _ = checkpoint("qwen2", False)
    layout = ParallelLayout(world_size=4, tensor_parallel_size=4)
    try:
        read_model_shape(folder).check_layout(layout)
    except ValueError as error:
        assert "actor.tensor_parallel_size=4 does not divide num_key_value_heads=2" in str(error)
        assert "use 1, 2." in str(error)
    else:
        raise AssertionError("TP 4 was accepted for 2 key-value heads")


@case(2, cut=OF_2[:2])
def a_value_that_is_not_finite_in_one_shard_stops_every_rank(cut: Cut) -> None:
    import torch.distributed as dist

    _, model = checkpoint("qwen2", False)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 95] = float("inf")  # the last rank's part
    folder = shared_folder()
    model.save_pretrained(folder)
    dist.barrier()
    try:
        make_actor(folder, cut)
    except ValueError as error:
        assert "model.layers.1.mlp.down_proj.weight" in str(error)
    else:
        raise AssertionError("infinity was loaded")


@case(2)
def one_lost_server_stops_the_publish_on_every_rank() -> None:
    """Two replicas; the second one's server is not there. Nothing hangs, and both ranks say which server it was."""
    import torch.distributed as dist

    from megatron_ar3po.config.schema import WeightSyncConfig
    from megatron_ar3po.distributed.collectives import Ranks
    from megatron_ar3po.interfaces import WeightPublishError
    from megatron_ar3po.weight_sync.publisher import ServerPublisher
    from megatron_ar3po.weight_sync.tensor_transport import TensorTransport

    folder, _ = checkpoint("qwen2", False)
    actor = make_actor(folder, Cut())
    lost = "http://127.0.0.1:9"
    publisher = ServerPublisher(
        actor=actor,
        ranks=Ranks(actor.layout, 60),
        servers=lambda: [lost] if dist.get_rank() == 1 else [],
        config=WeightSyncConfig(),
        transport=TensorTransport(server_tp=1),
    )
    try:
        publisher.publish(1)
    except WeightPublishError as error:
        assert f"server {lost} was lost at /pause_generation" in str(error)
    else:
        raise AssertionError("the publish went on without a server")


# ------------------------------------------------------------------------------------- program


def main(
    results: Path,
    chosen: Sequence[str],
    cases: dict[int, dict[str, Callable[[], None]]] = CASES,
) -> None:
    import torch.distributed as dist

    from megatron_ar3po.distributed.collectives import start_process_group
    from megatron_ar3po.platform.torchvision_schemas import ensure_torchvision_schemas

    torch.set_num_threads(1)
    ensure_torchvision_schemas()
    rank, world_size = start_process_group(60.0)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CASES_DIR"] = folder
        for name, run in cases[world_size].items():
            if name not in chosen if chosen else name in EXHAUSTIVE:
                continue
            started = time.perf_counter()
            failure = ""
            try:
                run()
            except Exception:  # one failed case must not hide the others
                failure = f"rank {rank}: {traceback.format_exc()}"
                print(f"{name}: {failure}", file=sys.stderr, flush=True)
            failures: list[Any] = [None] * world_size
            dist.all_gather_object(failures, failure)
            if rank == 0:
                line = {
                    "case": name,
                    "ok": not any(failures),
                    "detail": "\n".join(f for f in failures if f),
                    "seconds": round(time.perf_counter() - started, 2),
                }
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
