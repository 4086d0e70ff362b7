"""Models of random weights, actors of them in a process group of one, and packed batches."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from made_once import make_whole

from megatron_ar3po.actor.megatron_actor import MegatronActor
from megatron_ar3po.config.actor import ActorConfig
from megatron_ar3po.config.model import ModelConfig
from megatron_ar3po.config.run import RunConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.data.batch_builder import pack
from megatron_ar3po.distributed.collectives import start_process_group
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.platform.torchvision_schemas import ensure_torchvision_schemas
from megatron_ar3po.types import MiniBatch, TrainingBatch, TrainingSample
from prove.stand import Dtype, Shape, Stand


def make_model(stand: Stand, shape: Shape) -> Path:
    """A Hugging Face folder of random weights, made once for a shape and dtype. No tokenizer is in it."""
    folder = stand.models / f"model-{shape.hidden}x{shape.layers}x{shape.vocab}-{stand.dtype}"
    if folder.is_dir():
        return folder
    config = model_config(shape, stand.dtype)
    from transformers import Qwen2ForCausalLM

    torch.manual_seed(0)
    with torch.device(stand.device), _default_dtype(getattr(torch, stand.dtype)):
        model = Qwen2ForCausalLM(config)
    with make_whole(folder) as new:
        model.save_pretrained(new)
    return folder


def model_config(shape: Shape, dtype: Dtype) -> Any:
    ensure_torchvision_schemas()
    from transformers import Qwen2Config

    return Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.ffn,
        vocab_size=shape.vocab,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        initializer_range=0.8 / math.sqrt(shape.hidden),  # 0.02 at a hidden size of 1,536
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        dtype=dtype,
    )


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    """A process group of this process alone; gone afterwards, with Megatron's state."""
    from megatron.core import parallel_state

    start_process_group(600.0)
    try:
        yield
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def make_actor(stand: Stand, shape: Shape, **options: Any) -> MegatronActor:
    """`options`: of section `actor`. Within `one_process`; a second one may follow when the first is done with.

    AdamW's epsilon is ten times a gradient's mean element (gradients are clipped to a length of 1), so that an update
    goes with the gradient: with a small one it goes with its sign, and rounding becomes whole steps.
    """
    from megatron.core import parallel_state

    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    settings: dict[str, Any] = {
        "learning_rate": 1e-2,
        "adam_eps": 10 / math.sqrt(shape.num_parameters),
        **options,
    }
    config = Config(
        run=RunConfig(num_steps=100, collective_timeout_s=600.0),
        model=ModelConfig(path=str(make_model(stand, shape)), dtype=stand.dtype),
        actor=ActorConfig(**settings),
    )
    return MegatronActor(config, ParallelLayout())


def make_samples(stand: Stand, vocab: int, seed: int) -> list[TrainingSample]:
    """Random sequences of `stand.lengths`, the first third of each its prompt. Advantages alternate in sign."""
    generator = np.random.default_rng(seed)
    samples = []
    for number, length in enumerate(stand.lengths):
        tokens = generator.integers(2, vocab, length).astype(np.int32)
        prompt = length // 3
        samples.append(
            TrainingSample(
                group_position=number,
                prompt_id=f"{number:032x}",
                response_id=f"{seed:016x}{number:016x}",
                prompt_token_ids=tuple(tokens[:prompt].tolist()),
                response_token_ids=tokens[prompt:],
                behaviour_logprobs=np.full(length - prompt, -math.log(vocab), np.float32),
                advantage=float(1 + number) * (-1) ** number,
                reward=0.0,
                origin="fresh",
                policy_version=0,
            )
        )
    return samples


def make_batch(samples: Sequence[TrainingSample], num_micro_batches: int = 1) -> TrainingBatch:
    """One mini-batch; each response token has the same share in the loss."""
    share = 1.0 / sum(s.num_response_tokens for s in samples)
    bins = [samples[i::num_micro_batches] for i in range(num_micro_batches)]
    mini = MiniBatch(
        micro_batches=tuple(pack(bin_, [share] * len(bin_)) for bin_ in bins),
        num_units=1 / share,
        num_sequences=len(samples),
        samples=tuple(samples),
    )
    return TrainingBatch(
        mini_batches=(mini,),
        num_samples=len(samples),
        num_tokens=sum(s.num_tokens for s in samples),
    )


def weights_of(actor: MegatronActor) -> dict[str, torch.Tensor]:
    """Copies on the host, under Hugging Face names."""
    return {name: x.cpu().clone() for bucket in actor.hf_buckets(1 << 28) for name, x in bucket}


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Euclidean, over all tensors."""
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    return math.sqrt(sum(float((a[n].float() - b[n].float()).square().sum()) for n in a))
