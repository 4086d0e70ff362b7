"""The shim's edges. That Megatron works on it is what tests/parallel shows."""

from __future__ import annotations

import pytest
import torch

from megatron_ar3po.platform import megatron_cpu
from megatron_ar3po.platform.torchvision_schemas import ensure_torchvision_schemas

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="nothing is changed beside a GPU")


def test_the_global_torch_is_left_alone() -> None:
    factories = {name: getattr(torch, name) for name in ("zeros", "empty", "tensor", "compile")}
    tensor_type, tensor_cuda = torch.Tensor.type, torch.Tensor.cuda
    megatron_cpu.install()
    assert all(getattr(torch, name) is function for name, function in factories.items())
    assert torch.Tensor.type is tensor_type and torch.Tensor.cuda is tensor_cuda
    assert torch.zeros(1).type() == "torch.FloatTensor"
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(1, device="cuda")


def test_inside_megatron_cuda_means_the_cpu() -> None:
    megatron_cpu.install()
    from megatron.core.optimizer import clip_grads

    inside = clip_grads.torch
    assert inside is not torch
    assert inside.zeros(3, device="cuda").device.type == "cpu"
    assert inside.empty(2, device=torch.device("cuda", 0), pin_memory=True).device.type == "cpu"
    assert inside.cuda.current_device() == torch.device("cpu")
    assert inside.nn is torch.nn and inside.Tensor is torch.Tensor


def test_type_names_are_those_of_cuda_only_within_the_comparison() -> None:
    megatron_cpu.install()
    with megatron_cpu._cuda_type_names():
        assert torch.zeros(1).type() == "torch.cuda.FloatTensor"
        assert torch.zeros(1).type(torch.float64).dtype == torch.float64
    assert torch.zeros(1).type() == "torch.FloatTensor"


def test_both_can_be_asked_for_again() -> None:
    from megatron.core.optimizer import clip_grads

    seen = []
    for _ in range(2):
        megatron_cpu.install()
        ensure_torchvision_schemas()
        seen.append((clip_grads.torch, clip_grads.clip_grad_by_total_norm_fp32))
    assert seen[0] == seen[1], "a function was wrapped twice"
