"""Weights between Hugging Face folders, Megatron and servers: exact both ways."""

from __future__ import annotations

from collections.abc import Callable
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
)
from torch_reference import MODELS, reference_updates
from torchrun_cases import Cases, raises

CASES = Cases()


def _round_trip(architecture: str, tied: bool, cut: Cut) -> None:
    folder, model = checkpoint(architecture, tied)
    expected = saved_weights(dict(model.named_parameters()), tied)
    actor = make_actor(folder, cut)
    for max_bytes in (1, 50_000, 1 << 30):
        buckets = list(actor.hf_buckets(max_bytes))  # as many on every rank
        assert_same_on_all_ranks(len(buckets))
    assert_weights_equal(actor, {n: p.detach() for n, p in expected.items()}, 0.0)


@CASES.add(1, model=MODELS, tied=(False, True))
def hf_to_megatron_to_hf_is_exact(model: str, tied: bool) -> None:
    _round_trip(model, tied, Cut())


@CASES.add(2, model=MODELS, cut=OF_2[:3])
@CASES.add(4, model=MODELS, cut=(OF_4[0], OF_4[2]))
def hf_to_megatron_to_hf_is_exact_at(model: str, cut: Cut) -> None:
    _round_trip(model, model == "llama", cut)


@CASES.add(1)
@CASES.add(2, cut=OF_2[:3])
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


def on_rank_0(convert: Callable[[Any], object]) -> None:
    """Conversion takes one process; the others wait for it."""
    import torch.distributed as dist

    from megatron_ar3po.actor import conversion

    if dist.get_rank() == 0:
        convert(conversion)
    dist.barrier()


@CASES.add(1, model=MODELS, tied=(False, True), cut=(Cut(),))
@CASES.add(2, model=("qwen3",), tied=(False, True), cut=OF_2[:3])
@CASES.add(4, model=("qwen2",), tied=(False, True), cut=OF_4[:1])
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
    expected = export_tensors(make_actor(folder, cut))
    assert_weights_equal(make_actor(folder, cut, megatron_path=str(target)), expected, 0.0)


@CASES.add(1, cut=(Cut(),), tied=(False, True))
@CASES.add(2, cut=OF_2[:3], tied=(True,))
@CASES.add(4, cut=OF_4[:1], tied=(False, True))
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


@CASES.add(2)
def one_lost_server_stops_the_publish_on_every_rank() -> None:
    """Two replicas; the second one's server is not there. Nothing hangs, and both ranks say which server it was."""
    import torch.distributed as dist

    from megatron_ar3po.config.weight_sync import WeightSyncConfig
    from megatron_ar3po.distributed.collectives import Ranks
    from megatron_ar3po.interfaces import WeightPublishError
    from megatron_ar3po.weight_sync.publisher import ServerPublisher
    from megatron_ar3po.weight_sync.receiver import Receiver
    from megatron_ar3po.weight_sync.tensor_transport import TensorTransport

    folder, _ = checkpoint("qwen2", False)
    actor = make_actor(folder, Cut())
    lost = "http://127.0.0.1:9"
    ranks = Ranks(actor.layout, 60)
    publisher = ServerPublisher(
        actor=actor,
        ranks=ranks,
        servers=lambda: [Receiver(lost)] if dist.get_rank() == 1 else [],
        config=WeightSyncConfig(),
        transport=TensorTransport(ranks),
    )
    with raises(WeightPublishError, f"server {lost} was lost at /pause_generation"):
        publisher.publish(1)
