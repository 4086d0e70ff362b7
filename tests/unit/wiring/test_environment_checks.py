"""What a run has inherited and could not go on with is refused before anything starts."""

from __future__ import annotations

import pytest

from megatron_ar3po.config.load import load_config
from megatron_ar3po.wiring.environment_checks import check_environment

EXPANDABLE = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


def check(environment: dict[str, str], *words: str, has_gpu: bool = True) -> None:
    check_environment(load_config([], words), environment, has_gpu=has_gpu)


def test_memory_that_no_server_could_map_is_refused_where_a_server_would_map_it():
    with pytest.raises(
        ValueError, match=r"^PYTORCH_CUDA_ALLOC_CONF=.* weight_sync\.transport=tensor"
    ):
        check(EXPANDABLE)
    check(EXPANDABLE, has_gpu=False)
    for word in ("weight_sync.transport=disk", "debug.mode=rollout_only", "debug.mode=train_only"):
        check(EXPANDABLE, word)


def test_a_number_of_threads_counts_where_a_run_is_deterministic():
    threads = {"OMP_NUM_THREADS": "two"}
    check(threads)
    with pytest.raises(
        ValueError, match=r"^OMP_NUM_THREADS=two of the environment is no number of"
    ):
        check(threads, "run.deterministic=true")
