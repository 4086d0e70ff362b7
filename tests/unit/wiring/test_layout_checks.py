"""Where ranks and servers may sit. Heads of Qwen2.5-7B: 28, 4 of them for keys and values; an MLP of 18,944."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_ar3po.config.load import load_config
from megatron_ar3po.model_shape import ModelShape, read_policy_shape
from megatron_ar3po.wiring.layout_checks import (
    check_placement,
    layout_of_job,
    server_tensor_parallel_size,
)

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "qwen2.5_7b_dapo_math"


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return read_policy_shape(EXAMPLE / "model_config.json")


def check(shape: ModelShape, nodes: int, *words: str, has_gpus: bool = True) -> None:
    config = load_config([], words)
    layout = layout_of_job(config, world_size=8 * nodes)
    check_placement(config, layout, ranks_per_node=8, has_gpus=has_gpus, shape=shape)


def refusal(shape: ModelShape, nodes: int, *words: str, has_gpus: bool = True) -> str:
    with pytest.raises(ValueError) as error:
        check(shape, nodes, *words, has_gpus=has_gpus)
    return str(error.value)


@pytest.mark.parametrize(
    ("size", "fits"), [(1, True), (2, True), (4, True), (7, False), (8, False), (14, False)]
)
def test_a_server_cuts_query_heads_evenly_and_cuts_or_repeats_the_others(shape, size, fits):
    """7 divides 28 but neither divides 4 nor is a multiple of it; 8 does not divide 28."""
    assert shape.fits_server_tensor_parallel(size) == fits


def test_a_server_of_more_gpus_than_the_heads_allow_is_refused_with_the_numbers_that_fit(shape):
    said = refusal(shape, 1, "actor.tensor_parallel_size=4", "actor.pipeline_parallel_size=2")
    assert "gives each server 8 GPUs" in said
    assert said.endswith("use servers.servers_per_replica=2 or 4 or 8.")
    check(
        shape,
        1,
        *("actor.tensor_parallel_size=4", "actor.pipeline_parallel_size=2"),
        "servers.servers_per_replica=2",
    )


def test_without_gpus_servers_are_not_cut_and_ranks_sit_anywhere(shape):
    words = ["actor.tensor_parallel_size=4", "actor.pipeline_parallel_size=2"]
    check(shape, 1, *words, has_gpus=False)
    check(shape, 2, "actor.tensor_parallel_size=16", has_gpus=False)
    assert "across nodes of 8 GPUs; use one of 1, 2, 4, 8." in refusal(
        shape, 2, "actor.tensor_parallel_size=16"
    )


def test_context_parallel_ranks_need_gpus_and_count_among_those_of_the_server(shape):
    words = ["actor.context_parallel_size=2"]
    assert "needs Transformer Engine's attention" in refusal(shape, 1, *words, has_gpus=False)
    check(shape, 1, *words)
    config = load_config([], words)
    layout = layout_of_job(config, world_size=8)
    assert server_tensor_parallel_size(config, layout, 8) == 2


def test_a_run_without_servers_or_without_an_actor_is_held_to_what_it_has(shape):
    words = ["actor.tensor_parallel_size=4", "actor.pipeline_parallel_size=2"]
    check(shape, 1, *words, "debug.mode=train_only")
    check(shape, 1, "actor.context_parallel_size=2", "debug.mode=rollout_only", has_gpus=False)
