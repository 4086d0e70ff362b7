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


@pytest.mark.parametrize(
    ("passes", "refused"),
    [
        (
            {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False"},
            {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
        ),
        (
            {"LD_PRELOAD": "/usr/lib/libjemalloc.so"},
            {"LD_PRELOAD": "/usr/lib/libjemalloc.so:/x/torch_memory_saver_hook.so"},
        ),
    ],
)
def test_settings_that_only_look_alike_pass(passes, refused):
    check_exportable(passes)
    with pytest.raises(ValueError):
        check_exportable(refused)
