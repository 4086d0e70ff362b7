"""The actor and its weights on one GPU. Written without one at hand: until `make test-gpu` has run somewhere these say
what should hold, not that it does. Each is skipped, and counted, where there is no GPU."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from harness.publish_stage import Poison, SpoilingTransport, Stage

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture(scope="module")
def stage(tiny_task, tmp_path_factory) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(
            stack,
            str(tiny_task / "model"),
            tmp_path_factory.mktemp("publish"),
            bucket_bytes=200_000,
            vocab_size=20,
        )


def weights_of(actor: Any) -> dict[str, torch.Tensor]:
    return {n: x.cpu().clone() for bucket in actor.hf_buckets(1 << 20) for n, x in bucket}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_the_names_of_the_model_that_is_built_map_to_hugging_face(stage: Stage) -> None:
    """With Transformer Engine where it is installed: its own modules, not stand-ins."""
    policy = stage.actor.policy
    held = {name: p.numel() for name, p in policy.named_parameters()}
    assert held.keys() == {p.name for p in policy.hf_parameters()}
    assert next(policy.parameters()).is_cuda


def test_buckets_travel_as_ipc_handles_and_arrive_whole(stage: Stage) -> None:
    stage.poison()
    assert stage.largest_difference(stage.publish(stage.actor, verify=True)) <= 1e-3


def test_a_corrupted_bucket_is_caught(stage: Stage) -> None:
    from megatron_ar3po.interfaces import WeightPublishError

    spoiling = SpoilingTransport(stage.transports["tensor"], "model.norm.weight", (0,), by=1e-2)
    with pytest.raises(WeightPublishError, match=r"model\.norm\.weight differs"):
        stage.publish(stage.actor, spoiling, verify=True)
    stage.publish(stage.actor, verify=True)


def test_a_publish_leaves_no_bucket_on_the_device(stage: Stage) -> None:
    stage.publish(stage.actor)
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(5):
        stage.publish(stage.actor)
    gc.collect()
    torch.cuda.ipc_collect()
    assert torch.cuda.memory_allocated() <= before + 200_000


def test_what_goes_away_comes_back_as_it_was_and_frees_memory(stage: Stage) -> None:
    actor, expected = stage.actor, weights_of(stage.actor)
    full = torch.cuda.memory_allocated()
    actor.offload()
    offloaded = torch.cuda.memory_allocated()
    assert offloaded < full / 2
    assert_same(weights_of(actor), expected)  # a revived server asks for them meanwhile
    assert torch.cuda.memory_allocated() <= offloaded + 100_000
    actor.offload(keep_weights=True)
    assert_same(weights_of(actor), expected)
    actor.onload()
    assert_same(weights_of(actor), expected)


def test_a_checkpoint_on_the_device_comes_back(stage: Stage, tmp_path) -> None:
    actor, expected = stage.actor, weights_of(stage.actor)
    pending = actor.save(tmp_path)
    with torch.no_grad():
        for parameter in actor.policy.parameters():
            parameter.mul_(2.0)
    pending.finish()
    actor.load(tmp_path)
    assert_same(weights_of(actor), expected)


def test_a_tensor_that_is_left_out_is_seen(stage: Stage) -> None:
    stage.poison()
    left_out = "model.layers.1.mlp.down_proj.weight"
    version = stage.publish(
        Poison(stage.actor, lambda name, x: None if name == left_out else (name, x))
    )
    assert stage.largest_difference(version) > 1e-3
