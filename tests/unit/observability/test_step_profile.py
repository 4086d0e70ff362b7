"""What PyTorch saw of chosen steps."""

import gzip
import json

import pytest
import torch

from megatron_ar3po.observability.step_profile import StepProfiles


def test_a_chosen_step_has_a_trace_of_what_torch_did_in_it(tmp_path):
    profiles = StepProfiles(tmp_path / "profile", rank=3, profile_steps=[2])
    for step in (1, 2, 3):
        with profiles.profile(step):
            torch.ones(4, 4) @ torch.ones(4, 4)
    [path] = (tmp_path / "profile").iterdir()
    assert path.name == "step_00002.rank0003.json.gz"
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    assert "aten::matmul" in {event["name"] for event in events}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_history_of_its_memory_is_a_sentence(tmp_path, caplog):
    profiles = StepProfiles(tmp_path / "profile", rank=0, memory_steps=[1])
    for step in (1, 2):
        with profiles.profile(step):
            pass
    [record] = caplog.records
    assert "no CUDA device" in record.getMessage() and not (tmp_path / "profile").exists()
