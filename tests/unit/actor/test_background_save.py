"""What a checkpoint in the background takes with it. That whole checkpoints are those of their moment: tests/parallel,
where Megatron copies views by itself; a tensor that fills its storage is ours to copy.
"""

import torch
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest

from megatron_ar3po.actor.background_save import snapshot


def test_a_tensor_on_the_host_is_copied_before_training_changes_it():
    weight = torch.tensor([1.0, 2.0])
    buckets = [("file", "key", (["bytes"], [("item", weight)]))]
    request = AsyncRequest(
        async_fn=None,
        async_fn_args=(None, buckets, None),
        finalize_fns=[],
        preload_fn=lambda: buckets,
    )
    ((path, key, (byte_items, ((item, taken),))),) = snapshot(request)
    weight += 10
    assert taken.tolist() == [1.0, 2.0]
    assert (path, key, byte_items, item) == ("file", "key", ["bytes"], "item")
