"""An actor in this process group, what it is fed and how its weights are compared."""

from __future__ import annotations

import copy
import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch_reference import (
    ADAM_EPS,
    CLIP_GRAD,
    LEARNING_RATE,
    LENGTHS,
    PROMPT,
    TEMPERATURE,
    WEIGHT_DECAY,
    TokenSequence,
    hf_model,
    num_response_tokens,
    sequences,
)


@dataclasses.dataclass(frozen=True)
class Cut:
    """A layout, as tests name it."""

    tp: int = 1
    pp: int = 1
    sp: bool = False

    def __str__(self) -> str:
        return f"tp{self.tp}pp{self.pp}" + ("sp" if self.sp else "")


# Layouts of a world; what tp and pp leave over is dp.
OF_2 = (Cut(tp=2), Cut(pp=2), Cut(), Cut(tp=2, sp=True))
OF_4 = (Cut(tp=2, pp=2), Cut(tp=2, pp=2, sp=True), Cut(tp=2), Cut(pp=2))

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
    from megatron_ar3po.config.actor import ActorConfig
    from megatron_ar3po.config.algorithm import AlgorithmConfig
    from megatron_ar3po.config.model import ModelConfig
    from megatron_ar3po.config.rollout import RolloutConfig
    from megatron_ar3po.config.run import RunConfig
    from megatron_ar3po.config.schema import Config
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
    config = Config(
        run=RunConfig(num_steps=overrides.pop("num_steps", 10), collective_timeout_s=60),
        model=ModelConfig(
            path=str(folder),
            dtype=overrides.pop("dtype", "float32"),
            megatron_path=overrides.pop("megatron_path", ""),
        ),
        actor=ActorConfig(**actor_options),
        rollout=RolloutConfig(temperature=TEMPERATURE),
        algorithm=AlgorithmConfig(**overrides),
    )
    layout = ParallelLayout(
        world_size=dist.get_world_size(),
        rank=dist.get_rank(),
        tensor_parallel_size=cut.tp,
        pipeline_parallel_size=cut.pp,
    )
    return MegatronActor(config, layout)


def pack(seqs: Sequence[TokenSequence], total: int, rows: str = "packed") -> Any:
    """A micro-batch; no sequences: a dummy row. A padded row ends in tokens that weigh nothing."""
    from megatron_ar3po.types import MicroBatch

    is_dummy = not seqs
    seqs = seqs or [TokenSequence(torch.zeros(2, dtype=torch.long), 0.0)]
    real = [len(s.token_ids) for s in seqs]
    lengths = [max(real)] * len(real) if rows == "padded" else real
    positions = [torch.arange(n) for n in lengths]
    masks = [
        ((p >= PROMPT - 1) & (p < n - 1)).float() for p, n in zip(positions, real, strict=True)
    ]
    mask = torch.cat(masks) * (0.0 if is_dummy else 1.0)
    tokens = torch.cat(
        [
            torch.nn.functional.pad(s.token_ids, (0, n - len(s.token_ids)), value=7)
            for s, n in zip(seqs, lengths, strict=True)
        ]
    )
    sequence_ids = torch.repeat_interleave(torch.arange(len(seqs)), torch.tensor(lengths))
    advantages = torch.tensor([s.advantage for s in seqs])[sequence_ids]
    none = torch.zeros(len(tokens), dtype=torch.bool)
    behaviour = -5.0 + 0.5 * torch.sin(tokens.float())
    return MicroBatch(
        token_ids=tokens,
        position_ids=torch.cat(positions),
        cu_seqlens=torch.tensor([0, *lengths]).cumsum(0).int(),
        sequence_ids=sequence_ids,
        target_ids=torch.where(mask > 0, tokens.roll(-1), 0),
        loss_mask=mask,
        advantages=advantages * mask,
        weights=mask / total,
        behaviour_logprobs=behaviour * mask,
        is_reused=none,
        uses_behaviour_logprobs=none,
    )


def training_batch(
    seqs: Sequence[TokenSequence], dp: int, dp_rank: int, num_micro: int, rows: str = "packed"
) -> Any:
    """This rank's share of one mini-batch: `num_micro` micro-batches on every rank, dummy rows where none are left."""
    from megatron_ar3po.types import MiniBatch, TrainingBatch

    total = num_response_tokens(seqs)
    mine = list(seqs)[dp_rank::dp]
    micro = tuple(pack(mine[i::num_micro], total, rows) for i in range(num_micro))
    mini = MiniBatch(micro_batches=micro, num_units=total, num_sequences=len(seqs))
    return TrainingBatch(mini_batches=(mini,), num_samples=len(seqs), num_tokens=sum(LENGTHS))


def export_tensors(actor: Any, max_bytes: int = 50_000) -> dict[str, torch.Tensor]:
    """HF tensors on leaders (copied: a bucket's tensors are valid until the next), {} elsewhere."""
    return {n: x.clone() for bucket in actor.hf_buckets(max_bytes) for n, x in bucket}


def saved_weights(weights: dict[str, torch.Tensor], tied: bool) -> dict[str, torch.Tensor]:
    return {n: x for n, x in weights.items() if not (tied and n == "lm_head.weight")}


def assert_weights_equal(actor: Any, expected: dict[str, torch.Tensor], tolerance: float) -> None:
    got = export_tensors(actor)
    if not actor.layout.is_leader:
        assert not got
        return
    assert got.keys() == expected.keys(), got.keys() ^ expected.keys()
    for name, tensor in expected.items():
        assert got[name].shape == tensor.shape, name
        worst = (got[name].float() - tensor).abs().max().item()
        assert worst <= tolerance, f"{name} differs by {worst:.2e}"


def assert_same_on_all_ranks(value: Any) -> None:
    import torch.distributed as dist

    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, value)
    assert all(other == value for other in everyone)


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
