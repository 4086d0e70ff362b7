"""Memory that a server may read, and what is imported for it. Buckets are tested through the publisher."""

import subprocess
import sys

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


PACK = """
import base64, pickle, sys
import torch
from megatron_ar3po.platform.sglang_modules import sglang_without_its_package
from megatron_ar3po.weight_sync.shared_bucket import SharedBuckets

buckets = SharedBuckets()
for _ in range(2):
    payload, _ = buckets.pack([("a", torch.arange(6.0).view(2, 3)), ("b", torch.ones(2))], 2)
assert not [name for name in sys.modules if name.partition(".")[0] in ("sglang", "transformers")]
with sglang_without_its_package():
    content = pickle.loads(base64.b64decode(payload))
for entry in content["metadata"]:
    print(type(entry).__module__, entry.name, tuple(entry.shape), entry.start_idx, entry.end_idx)
print(content["flattened_tensor"].view(torch.float32).tolist())
"""


def test_a_bucket_is_packed_with_one_file_of_sglang_and_names_its_class():
    """2 x 3 and 2 values of four bytes each: 24 and 8 bytes."""
    done = subprocess.run([sys.executable, "-c", PACK], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "sglang.srt.weight_sync.tensor_bucket a (2, 3) 0 24",
        "sglang.srt.weight_sync.tensor_bucket b (2,) 24 32",
        "[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 1.0, 1.0]",
    ]
