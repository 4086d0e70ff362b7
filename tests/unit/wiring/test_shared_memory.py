"""What a run keeps in /dev/shm, by figures. That a start is refused for it needs a /dev/shm of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.model_config import write_model_config

from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.schema import Config
from megatron_ar3po.wiring.shared_memory import bytes_of_buckets, shared_memory_problem


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model_config(tmp_path)


def config_of(folder: Path, *words: str) -> Config:
    return load_config([], [f"model.path={folder}", *words])


def test_two_buffers_hold_the_model_where_it_is_smaller_than_a_bucket(folder: Path) -> None:
    """1,192 weights: 2 layers of 512, two embeddings of 10 x 8, a norm of 8."""
    assert bytes_of_buckets(config_of(folder)) == 2 * 1192 * 4
    assert bytes_of_buckets(config_of(folder, "model.dtype=bfloat16")) == 2 * 1192 * 2


def test_they_hold_a_bucket_each_or_the_largest_tensor(folder: Path) -> None:
    """The embedding is 10 x 8 weights of 4 bytes: 320."""
    assert bytes_of_buckets(config_of(folder, "weight_sync.bucket_bytes=8")) == 2 * 320
    assert bytes_of_buckets(config_of(folder, "weight_sync.bucket_bytes=324")) == 2 * 324


def test_who_sends_no_weights_through_it_needs_little(folder: Path) -> None:
    """A server's 64 KiB are there; two models of more than 4 TiB each are not."""
    huge = write_model_config(folder, vocab_size=2**30, hidden_size=2**10)
    tensor = config_of(huge, "weight_sync.bucket_bytes=8")
    assert "/dev/shm has" in shared_memory_problem(tensor, on_gpu=False)
    assert "weight_sync.transport=disk" in shared_memory_problem(tensor, on_gpu=False)
    assert shared_memory_problem(tensor, on_gpu=True) == ""
    assert shared_memory_problem(tensor, on_gpu=False, publishes=False) == ""
    disk = config_of(huge, "weight_sync.transport=disk")
    assert shared_memory_problem(disk, on_gpu=False) == ""
