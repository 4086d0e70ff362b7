"""Memory that a server may read. The buckets themselves are tested through the publisher."""

import pytest

from megatron_ar3po.weight_sync.shared_bucket import check_exportable


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64, expandable_segments: True"},
            r"PYTORCH_CUDA_ALLOC_CONF=.* clashes with weight_sync\.transport=tensor",
        ),
        ({"PYTORCH_ALLOC_CONF": "expandable_segments:True"}, r"Unset PYTORCH_ALLOC_CONF"),
        ({"LD_PRELOAD": "/x/torch_memory_saver_hook.so"}, r"the pool that sleeps"),
    ],
)
def test_memory_that_cannot_be_exported_is_refused_by_name(environment, said):
    with pytest.raises(ValueError, match=said):
        check_exportable(environment)


def test_other_allocator_settings_pass():
    check_exportable({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False"})
    check_exportable({"LD_PRELOAD": "/usr/lib/libjemalloc.so"})
