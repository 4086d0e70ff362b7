"""What a checkpoint in the background takes with it. That whole checkpoints are those of their moment: tests/parallel;
what they cost in memory: benchmarks/checkpoint_memory.py.
"""

import torch
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest

from megatron_ar3po.actor.background_save import snapshot


def request_of(*tensors):
    """As Megatron plans a save: what `preload_fn` hands out is what was planned, where it lies on the host."""
    planned = [("file", "key", (["bytes"], [(number, x) for number, x in enumerate(tensors)]))]

    def preload():
        return [
            (path, key, (byte_items, list(items))) for path, key, (byte_items, items) in planned
        ]

    return AsyncRequest(
        async_fn=None, async_fn_args=(None, planned, None), finalize_fns=[], preload_fn=preload
    )


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
