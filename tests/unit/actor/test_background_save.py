"""What a checkpoint in the background takes with it. That whole checkpoints are those of their moment: tests/parallel;
what they cost in memory: benchmarks/checkpoint_memory.py.
"""

import torch
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest

from megatron_ar3po.actor.background_save import snapshot


def request_of(*tensors):
    """As Megatron plans a save."""
    planned = [("file", "key", (["bytes"], [(number, x) for number, x in enumerate(tensors)]))]

    def preload():
        raise AssertionError("it pins, in powers of two")

    return AsyncRequest(
        async_fn=None, async_fn_args=(None, planned, None), finalize_fns=[], preload_fn=preload
    )


class OnGpu:
    """Stands in for a tensor there. torch copies one that does not block to memory that it pins, and keeps."""

    device = torch.device("cuda")

    def __init__(self, value):
        self.value = value

    def to(self, device, *, non_blocking=False):
        assert device == "cpu" and not non_blocking
        return torch.tensor(self.value)


def test_a_tensor_of_the_model_is_copied_before_training_changes_it():
    weight = torch.tensor([1.0, 2.0])
    ((path, key, (byte_items, ((item, taken),))),) = snapshot(
        request_of(weight), {weight.untyped_storage().data_ptr()}
    )
    weight += 10
    assert taken.tolist() == [1.0, 2.0]
    assert (path, key, byte_items, item) == ("file", "key", ["bytes"], 0)


def test_what_megatron_has_copied_is_not_copied_again():
    """Of a view on the host Megatron makes a copy while it plans."""
    weights = torch.tensor([1.0, 2.0, 3.0])
    copy_of_a_view = weights[:2].clone()
    request = request_of(copy_of_a_view)
    ((_, _, (_, ((_, taken),))),) = snapshot(request, {weights.untyped_storage().data_ptr()})
    assert taken is copy_of_a_view
    ((_, _, (_, planned)),) = request.async_fn_args[1]
    assert planned == []  # held by the snapshot alone, which lets go of it once it is written


def test_a_tensor_of_a_gpu_is_copied_to_memory_of_its_own_size():
    ((_, _, (_, ((_, taken),))),) = snapshot(request_of(OnGpu([5.0])), set())
    assert taken.tolist() == [5.0]
