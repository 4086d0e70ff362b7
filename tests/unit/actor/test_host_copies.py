"""Host memory that stays, and the order in which an optimizer is copied, waited for and freed. On a real optimizer:
tests/parallel/actor_offload_cases.py.
"""

import mmap
import weakref
from types import SimpleNamespace

import pytest
import torch
from harness.late_copies import LateCopies

from megatron_ar3po.actor.host_copies import HostBlock, HostBuffers
from megatron_ar3po.actor.optimizer_offload import OptimizerOffload


class Driver:
    """Takes down what is pinned."""

    def __init__(self, error=0):
        self.pinned, self._error = {}, error

    def cudaHostRegister(self, address, size, flags):
        self.pinned[address] = size
        return self._error

    def cudaHostUnregister(self, address):
        del self.pinned[address]


def test_a_block_is_pinned_whole_from_the_beginning_of_a_page_and_as_long_as_it_is_there():
    driver = Driver()
    block = HostBlock(10_000, driver)
    ((address, size),) = driver.pinned.items()
    assert (address % mmap.PAGESIZE, size) == (0, 10_000)
    tensor = block.memory[:4]
    del block
    assert driver.pinned == {}
    assert tensor.fill_(3).tolist() == [3, 3, 3, 3]  # the memory is there as long as a tensor


def test_memory_that_cannot_be_pinned_is_told_with_what_to_do():
    with pytest.raises(RuntimeError, match=r"2\.0 GiB of host memory.*CUDA error 2.*ar3po plan"):
        HostBlock(2 * 1024**3, Driver(error=2))


def test_buffers_stay_and_what_is_new_gets_one_block():
    """3 floats, 5 bf16 and nothing, each at a multiple of 256 bytes: a block of 512 bytes; then 256 for a fourth."""
    buffers = HostBuffers()
    some = {"a": torch.zeros(3), "b": torch.zeros(5, dtype=torch.bfloat16), "c": torch.zeros(0)}
    first = buffers.of(some)
    assert {name: (x.shape, x.dtype) for name, x in first.items()} == {
        name: (x.shape, x.dtype) for name, x in some.items()
    }
    assert (buffers.num_blocks, buffers.num_bytes) == (1, 512)
    first["a"].fill_(7)
    again = buffers.of({"a": torch.zeros(3), "d": torch.zeros(2, 2)})
    assert again["a"].tolist() == [7, 7, 7]
    assert (buffers.num_blocks, buffers.num_bytes) == (2, 768)


def test_a_tensor_of_another_size_gets_another_buffer_and_the_old_block_goes():
    buffers = HostBuffers()
    buffers.of({"a": torch.zeros(3), "b": torch.zeros(100)})
    found = buffers.of({"a": torch.zeros(300)})
    assert found["a"].shape == (300,)
    assert (buffers.num_blocks, buffers.num_bytes) == (1, 1280)


def optimizer_of(model):
    """One that has made a step, as Megatron holds it; its parameters are none of `model`'s."""
    main = torch.nn.Parameter(model.weight.detach().clone())
    inner = torch.optim.AdamW([main])
    main.grad = torch.ones_like(main)
    inner.step()
    megatrons = SimpleNamespace(inner=SimpleNamespace(chained_optimizers=[]))
    megatrons.inner.chained_optimizers.append(SimpleNamespace(optimizer=inner))
    return megatrons, inner.state[main], main


def test_all_is_queued_then_what_else_is_there_moves_then_one_wait_and_only_then_memory_is_freed():
    model = torch.nn.Linear(2, 2, bias=False)
    optimizer, state, _ = optimizer_of(model)
    device = weakref.ref(state["exp_avg"])
    stream = LateCopies()
    offload = OptimizerOffload(model, optimizer, stream)
    with offload.offload():
        stream.calls.append("weights move")
        assert state["exp_avg"] is device() and not state["exp_avg"].isnan().any()
        assert not offload.is_offloaded
    assert stream.calls == [
        "synchronize",  # of an onload before
        *("follow", "copy", "copy", "copy", "weights move", "synchronize"),
    ]
    assert device() is None and offload.is_offloaded
    assert not state["exp_avg"].isnan().any()


def test_an_onload_returns_before_anything_has_arrived():
    model = torch.nn.Linear(2, 2, bias=False)
    optimizer, state, main = optimizer_of(model)
    before = main.detach().clone()
    stream = LateCopies()
    offload = OptimizerOffload(model, optimizer, stream)
    with offload.offload():
        pass
    stream.calls.clear()
    offload.onload()
    assert stream.calls == ["follow", "copy", "copy", "copy"]
    assert main.isnan().all() and not offload.is_offloaded
    offload.wait()
    assert torch.equal(main, before) and state["step"] == 1


def test_without_a_gpu_what_was_parked_once_stays_in_its_buffer_and_is_held_once():
    model = torch.nn.Linear(2, 2, bias=False)
    optimizer, state, main = optimizer_of(model)
    offload = OptimizerOffload(model, optimizer)
    before = [main.detach().clone(), state["exp_avg"].clone()]
    for _ in range(2):
        with offload.offload():
            pass
        parked = [main.data_ptr(), state["exp_avg"].data_ptr()]
        offload.onload()
        assert [main.data_ptr(), state["exp_avg"].data_ptr()] == parked
        assert torch.equal(main, before[0]) and torch.equal(state["exp_avg"], before[1])
        assert not offload.is_offloaded and offload.buffers.num_blocks == 1


def test_what_was_loaded_while_parked_is_what_comes_back():
    model = torch.nn.Linear(2, 2, bias=False)
    optimizer, state, _ = optimizer_of(model)
    offload = OptimizerOffload(model, optimizer)
    with offload.offload():
        pass
    state["exp_avg"] = torch.full((2, 2), 5.0)
    offload.onload()
    offload.wait()
    assert state["exp_avg"].tolist() == [[5, 5], [5, 5]]
