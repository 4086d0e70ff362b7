"""The actor, a server and the way of the weights between them on one GPU: four layers of a 1.5B model (head_dim 128),
in bf16, a server with its memory saver. Written without a GPU at hand: until `make test-gpu` has run somewhere these
say what should hold, not that it does. Each is skipped, and counted, where there is none.

What tools/prove_gpu.py checks is in test_proofs_on_gpu.py.
"""

from __future__ import annotations

import gc
import pickle
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from harness.publish_stage import Poison, SpoilingTransport
from prove.served import Served
from prove.server_checks import LARGEST_MEAN
from prove.stand import Stand

from megatron_ar3po.observability.step_profile import StepProfiles

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

BUCKET_BYTES = 64 * 1024**2


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    with ExitStack() as stack:
        stand = Stand("cuda", folder, folder)
        served = Served(stand, stack, stand.part, bucket_bytes=BUCKET_BYTES)
        served.actor.offload(keep_weights=True)
        yield served


def mean_difference(served: Served) -> float:
    return float(np.abs(served.differences()).mean())


def test_the_names_of_the_model_that_is_built_map_to_hugging_face(served: Served) -> None:
    """With Transformer Engine where it is installed: its own modules, not stand-ins."""
    policy = served.actor.policy
    held = {name: p.numel() for name, p in policy.named_parameters()}
    assert held.keys() == {p.name for p in policy.hf_parameters()}
    assert next(policy.parameters()).is_cuda
    assert next(policy.parameters()).dtype == torch.bfloat16


def test_buckets_travel_as_ipc_handles_and_arrive_whole(served: Served) -> None:
    generator = torch.Generator("cuda").manual_seed(1)

    def randomize(name: str, x: torch.Tensor) -> tuple[str, torch.Tensor]:
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        return name, noise.to(x.dtype)

    served.publish(verify=False, source=Poison(served.actor, randomize))
    assert not mean_difference(served) <= LARGEST_MEAN  # the measure knows other weights
    served.publish(verify=True)
    assert mean_difference(served) <= LARGEST_MEAN


def test_a_corrupted_bucket_is_caught(served: Served) -> None:
    from megatron_ar3po.interfaces import WeightPublishError

    spoiling = SpoilingTransport(served.transport, "model.norm.weight", (0,), by=0.5)
    with pytest.raises(WeightPublishError, match=r"model\.norm\.weight differs"):
        served.publish(verify=True, transport=spoiling)
    served.publish(verify=True)


def test_a_tensor_that_is_left_out_is_seen(served: Served) -> None:
    """After a sleep, from which weights come back uninitialised, as on a GPU alone they do."""
    left_out = "model.layers.1.mlp.down_proj.weight"
    served.control.sleep(["kv_cache", "weights"])
    served.control.wake(["kv_cache", "weights"])
    served.publish(
        verify=False,
        source=Poison(served.actor, lambda name, x: None if name == left_out else (name, x)),
    )
    assert not mean_difference(served) <= LARGEST_MEAN
    served.publish(verify=True)
    assert mean_difference(served) <= LARGEST_MEAN


def test_a_publish_leaves_no_bucket_on_the_device(served: Served) -> None:
    served.publish(verify=False)
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(5):
        served.publish(verify=False)
    gc.collect()
    torch.cuda.ipc_collect()
    assert torch.cuda.memory_allocated() <= before + BUCKET_BYTES


def test_the_memory_of_a_step_is_a_file_that_pytorch_reads(tmp_path):
    profiles = StepProfiles(tmp_path, rank=0, memory_steps=[1])
    with profiles.profile(1):
        torch.ones(1024, device="cuda")
    snapshot = pickle.loads((tmp_path / "step_00001.rank0000.memory.pickle").read_bytes())
    assert any(
        event["action"] == "alloc" for events in snapshot["device_traces"] for event in events
    )
