"""`ar3po plan`. The small model's numbers are worked by hand; the three shipped examples are held to the parameter
counts their model cards state. Not exercised: whether the estimates of activations and runtime hold on a GPU.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ar3po.colocation import ACTOR_PARTS, PHASES, SERVER_PARTS
from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.model_shape import ModelShape, read_policy_shape
from megatron_ar3po.reporting.layout_plan import (
    Cluster,
    Plan,
    idle_gpus_in_rollout,
    make_plan,
    nearest_plan_that_fits,
    refusal,
)
from megatron_ar3po.reporting.memory_estimate import (
    ACTOR_RUNTIME_BYTES,
    GATE_RUNTIME_BYTES,
    GIB,
    SERVER_WORKSPACE_BYTES,
    activation_bytes,
    estimate_memory,
)
from megatron_ar3po.reporting.plan import add_plan_parser, lines_of

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
SHIPPED = {  # nodes of the example's launch script, parameters by the model card
    "qwen2.5_32b_dapo_math": (4, 32_763_876_352),
    "qwen2.5_7b_dapo_math": (1, 7_615_616_512),
    "llama3.1_8b_dapo_math": (1, 8_030_261_248),
}
# 7B on one GPU, with moments that nobody shares: 14 bytes and more a parameter.
WHOLE_OPTIMIZER = [
    *("actor.tensor_parallel_size=1", "actor.sequence_parallel=false"),
    "actor.use_distributed_optimizer=false",
]
# Per layer: q, k, v 3 x 8 x 8 + 24 bias, output 64, MLP 3 x 8 x 16 = 664 that TP cuts, two norms of 8 that it does not.
SMALL = ModelShape(
    path="MODEL",
    architecture="Qwen2ForCausalLM",
    num_layers=2,
    hidden_size=8,
    ffn_size=16,
    num_heads=2,
    num_kv_heads=2,
    head_dim=4,
    vocab_size=128,
    max_positions=64,
    norm_eps=1e-6,
    rope_theta=1e4,
    llama3_rope=None,
    has_qkv_bias=True,
    has_qk_norm=False,
    is_tied=False,
)


def example(name: str, *overrides: str) -> tuple[Config, ModelShape]:
    folder = EXAMPLES / name
    return load_config([folder / "config.yaml"], overrides), read_policy_shape(
        folder / "model_config.json"
    )


def plan_of(name: str, nodes: int, *overrides: str, gib: float = 79) -> Plan:
    config, size = example(name, *overrides)
    return make_plan(
        config, size, Cluster(num_nodes=nodes, gpus_per_node=8, gpu_bytes=int(gib * GIB))
    )


def test_the_small_model_has_3416_parameters_and_a_tp2_rank_holds_1728():
    assert SMALL.num_parameters == 2 * (664 + 16) + 2 * 1024 + 8 == 3416
    assert SMALL.parameters_of_largest_rank(tp=2, pp=1) == 2 * (332 + 16) + 1024 + 8 == 1728
    assert SMALL.parameters_of_largest_rank(tp=1, pp=2) == 680 + 1024 + 8


def test_a_vocabulary_that_is_no_multiple_of_128_is_padded_on_each_rank():
    """130 rows become 256, of which a rank of two holds 128 in each table."""
    odd = replace(SMALL, vocab_size=130)
    assert odd.parameters_of_largest_rank(tp=2, pp=1) == 2 * (332 + 16) + 2 * 128 * 8 + 8


@pytest.mark.parametrize("name", SHIPPED)
def test_each_shipped_example_fits_its_machines_and_has_its_models_parameters(name):
    nodes, parameters = SHIPPED[name]
    plan = plan_of(name, nodes)
    assert plan.shape.num_parameters == parameters
    assert plan.problems == ()
    assert idle_gpus_in_rollout(plan) == 0


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("algorithm", ["ar3po", "grpo", "dapo", "history"])
def test_one_word_changes_the_method_of_a_shipped_example(name, algorithm):
    config, _ = example(name, f"algorithm.name={algorithm}")
    assert config.rollout.max_responses_per_prompt == (1 if algorithm == "history" else 8)
    assert config.reuse.enabled == (algorithm == "ar3po")
    assert config.algorithm.dynamic_sampling == (algorithm == "dapo")


def test_memory_of_the_small_model_in_fp32_at_tp2_dp2():
    config = load_config(
        [],
        [
            "actor.tensor_parallel_size=2",
            "actor.max_tokens_per_microbatch=100",
            "actor.logprob_chunk_tokens=10",
            "weight_sync.bucket_bytes=1000",
            "servers.sglang.mem_fraction_static=0.5",
        ],
    )
    layout = ParallelLayout(world_size=4, tensor_parallel_size=2)
    runtimes = ACTOR_RUNTIME_BYTES + GATE_RUNTIME_BYTES
    memory = estimate_memory(config, SMALL, layout, gpus_per_node=4, gpu_bytes=runtimes + 100_000)
    rollout, train, sync, save = map(memory.of, ("rollout", "train", "sync", "save"))
    assert rollout["server weights"] == 3416 * 4 // 2
    assert (
        memory.kv_bytes_per_token == 2 * 2 * 1 * 4 * 4
    )  # k and v, layers, heads of a rank, dim, bytes
    assert memory.kv_tokens == (50_000 - 6832) // 64
    assert train["weights"] == train["gradients"] == 1728 * 4
    assert train["optimizer"] == 1728 * 8 // 2  # two moments, shared by two replicas
    assert train["log-probs"] == 3 * 10 * 64 * 4  # three fp32 chunks of half the vocabulary
    # gathered, made of it, flat, and flat once more while a server reads the other
    assert sync["buckets"] == 4000
    assert memory.host_bytes_per_rank == 1728 * 4 + 1728 * 4
    # A save gathers nothing and needs no gradients; the host holds a half of the weights, all of the moments.
    assert save["weights"] + save["optimizer"] == 1728 * (4 + 4) and "gradients" not in save
    assert memory.save_host_bytes_per_rank == 1728 * 4 // 2 + 1728 * 4


def test_the_32b_example_worked_by_hand():
    """TP 8 x DP 4, bf16. A layer: q and o 2 x 5120 x 5120, k and v 2 x 5120 x 1024, their biases 5120 + 2 x 1024, MLP
    3 x 5120 x 27648; two norms of 5120. Two embeddings of 152064 x 5120."""
    sharded = 2 * 5120 * 5120 + 2 * 5120 * 1024 + 5120 + 2 * 1024 + 3 * 5120 * 27648
    rank = 64 * (sharded // 8 + 2 * 5120) + 2 * 152064 * 5120 // 8 + 5120
    plan = plan_of("qwen2.5_32b_dapo_math", 4)
    assert plan.shape.parameters_of_largest_rank(tp=8, pp=1) == rank
    rollout, train = plan.memory.of("rollout"), plan.memory.of("train")
    assert (train["weights"], train["gradients"], train["optimizer"]) == (
        2 * rank,
        4 * rank,
        3 * rank,
    )
    # With full recompute: 64 layer inputs, cut by sequence parallelism, and one layer whole.
    one_layer = 4 * 640 + (2 * 5120 + 2 * 1024 + 3 * 27648) // 8
    assert train["activations"] == 16384 * 2 * (64 * 640 + one_layer)
    # One of eight key and value heads a GPU: 2 x 64 layers x 128 x 2 bytes a token. A server that starts beside a
    # parked actor finds 79 GiB less 2.5 of its runtime and 1 of its own, and takes 0.75 of that, weights included.
    assert plan.memory.kv_bytes_per_token == 2 * 64 * 128 * 2 == 32768
    assert plan.memory.kv_tokens == (int(0.75 * 75.5 * GIB) - rollout["server weights"]) // 32768
    assert plan.memory.kv_tokens // 5120 == 313
    assert round(sum(train.values()) / GIB) == 43


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", SHIPPED)
def test_each_row_holds_what_the_run_places_there(name, keep):
    """By `colocation.PHASES`, and beside it only what a phase itself makes."""
    nodes, _ = SHIPPED[name]
    memory = plan_of(name, nodes, f"colocation.keep_actor_weights={keep}").memory
    names = {"server weights": "weights", "KV cache": "kv_cache"}
    runtime = {"actor runtime", "server runtime", "CUDA graphs"}
    own = {"train": {"activations", "log-probs", "output gradient"}, "sync": {"buckets"}}
    for phase, placed in PHASES.items():
        parts = memory.of(phase).keys() - runtime - own.get(phase, set())
        servers = {names[part] for part in parts & names.keys()}
        kept = {"weights"} if keep and phase == "rollout" else set()
        assert (servers, parts & ACTOR_PARTS) == (placed.server, placed.actor | kept)
        assert parts <= names.keys() | ACTOR_PARTS
    assert {names[part] for part in memory.of("revival").keys() & names.keys()} == SERVER_PARTS
    assert memory.of("revival").keys() & ACTOR_PARTS == {"weights"}
    for row in memory.phases:
        started = row.phase != "start"  # a server at its gate has neither workspaces nor graphs
        server = GATE_RUNTIME_BYTES + (SERVER_WORKSPACE_BYTES if started else 0)
        assert row.parts["server runtime"] == server
        assert row.parts["actor runtime"] == ACTOR_RUNTIME_BYTES
        assert ("CUDA graphs" in row.parts) == started


def test_what_servers_and_actor_would_hold_at_once_is_what_no_row_may_add_up_to():
    """As it was when both were started together: a server of 0.7 x 79 GiB beside the whole actor of 7B."""
    plan = plan_of("qwen2.5_7b_dapo_math", 1, "servers.sglang.mem_fraction_static=0.7")
    server = 0.7 * 79 * GIB
    actor = sum(plan.memory.of("train")[part] for part in ACTOR_PARTS)
    assert server + actor > 79 * GIB
    assert max(row.total_bytes for row in plan.memory.phases) < 79 * GIB


def test_weights_that_stay_are_offered_where_each_response_keeps_its_place_in_the_cache():
    """32B: 256 are sent at once, and 276 would still fit. 8B: 157 fit as it is."""
    offered = "colocation.keep_actor_weights=true fits too: 7.6 GiB less to move twice a step; the KV cache holds 276"
    assert offered in "\n".join(lines_of(plan_of("qwen2.5_32b_dapo_math", 4)))
    kept = plan_of("qwen2.5_32b_dapo_math", 4, "colocation.keep_actor_weights=true")
    assert kept.memory.kv_tokens // 5120 == 276
    assert "fits too" not in "\n".join(lines_of(kept))
    assert "fits too" not in "\n".join(lines_of(plan_of("llama3.1_8b_dapo_math", 1)))


@pytest.mark.parametrize(
    ("words", "phase"),
    [
        (["servers.sglang.mem_fraction_static=0.99"], "rollout"),
        (["servers.sglang.mem_fraction_static=0.9"], "revival"),
        (WHOLE_OPTIMIZER, "start"),
        (WHOLE_OPTIMIZER, "train"),
        (WHOLE_OPTIMIZER, "save"),
        (["weight_sync.bucket_bytes=20000000000"], "sync"),
    ],
)
def test_each_phase_that_does_not_fit_is_refused_by_its_name(words, phase):
    plan = plan_of("qwen2.5_7b_dapo_math", 1, *words)
    problems = [problem for problem in plan.problems if f"the {phase} phase needs" in problem]
    assert len(problems) == 1


def test_a_reference_policy_lies_on_the_host():
    """Its weights take the place of the policy's while its log-probs are computed, and the policy's lie there then."""
    without = plan_of("qwen2.5_7b_dapo_math", 1).memory
    with_one = plan_of("qwen2.5_7b_dapo_math", 1, "algorithm.kl_coef=0.001").memory
    assert with_one.of("train") == without.of("train")
    more = with_one.host_bytes_per_rank - without.host_bytes_per_rank
    assert more == 2 * without.of("train")["weights"]


def test_the_table_of_the_cluster_page_is_what_the_plans_say():
    page = (EXAMPLES.parent / "docs" / "cluster.md").read_text()
    for name, (nodes, _) in SHIPPED.items():
        plan = plan_of(name, nodes)
        tp, dp = plan.layout.tensor_parallel_size, plan.layout.data_parallel_size
        total = {row.phase: f"{row.total_bytes / GIB:.0f}" for row in plan.memory.phases}
        phases = " | ".join(total[phase] for phase in ("start", "rollout", "train", "save"))
        assert f"| {nodes} x 8 | tp {tp} x dp {dp} | {phases} |" in page


def test_activations_per_token_with_and_without_recompute_and_sequence_parallel():
    layout = ParallelLayout(world_size=2, tensor_parallel_size=2)

    def count_held(*overrides: str) -> int:
        words = ["actor.tensor_parallel_size=2", "actor.max_tokens_per_microbatch=1", *overrides]
        return activation_bytes(load_config([], words), SMALL, layout, 4)

    projections = (2 * 8 + 2 * 8 + 3 * 16) // 2  # of a layer, cut by TP 2
    assert count_held() == 4 * 2 * (4 * 8 + projections)
    assert count_held("actor.sequence_parallel=true") == 4 * 2 * (4 * 4 + projections)
    assert count_held("actor.recompute=full") == 4 * (2 * 8 + 4 * 8 + projections)


def test_a_plan_that_does_not_fit_names_the_phase_and_the_nearest_layout():
    plan = plan_of("qwen2.5_32b_dapo_math", 4, "actor.tensor_parallel_size=2")
    assert "the train phase needs" in " ".join(plan.problems)
    nearest = nearest_plan_that_fits(plan)
    assert nearest is not None
    # Of TP 4 all phases fit but the revival of a server, which takes 79.4 GiB.
    assert (nearest.layout.describe(), nearest.problems) == ("tp 8 x pp 1 x dp 4", ())
    assert "actor.tensor_parallel_size=8 actor.pipeline_parallel_size=1" in refusal(plan)


def test_more_nodes_are_proposed_when_no_layout_fits_the_ones_at_hand():
    plan = plan_of("qwen2.5_32b_dapo_math", 1, gib=40)
    nearest = nearest_plan_that_fits(plan)
    assert nearest is not None
    assert nearest.cluster.num_nodes > 1
    assert f"--nodes {nearest.cluster.num_nodes} actor.tensor_parallel_size=" in refusal(plan)


def test_a_cluster_larger_than_those_that_are_searched_is_itself_searched():
    plan = plan_of("qwen2.5_32b_dapo_math", 72, "actor.tensor_parallel_size=2")
    nearest = nearest_plan_that_fits(plan)
    assert nearest is not None
    assert (nearest.cluster.num_nodes, nearest.problems) == (72, ())


def test_a_kv_cache_smaller_than_one_sequence_is_a_problem():
    plan = plan_of("qwen2.5_7b_dapo_math", 1, "servers.sglang.mem_fraction_static=0.0949")
    assert "less than one sequence of 5120" in " ".join(plan.problems)


def test_pipeline_stages_on_other_nodes_are_shown_as_idle_during_rollouts():
    """tp 8 x pp 2 on two nodes: one replica, its leader's node serves, the other one waits."""
    plan = plan_of("qwen2.5_32b_dapo_math", 2, "actor.pipeline_parallel_size=2")
    assert idle_gpus_in_rollout(plan) == 8
    assert "8 of 16 GPUs have no server" in "\n".join(lines_of(plan))


def test_the_printed_plan_tells_who_sits_where_and_the_batch():
    text = "\n".join(lines_of(plan_of("qwen2.5_7b_dapo_math", 1)))
    assert "1         2       0           1 of tp 2   2-3" in text
    assert "responses  1024 to 2048 (2 stages of 4)" in text
    assert "update     4 optimizer steps of at most 512 responses" in text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("actor.tensor_parallel_size=3", "does not divide num_attention_heads=28 of .*; use 1, 2, 4"),
        ("actor.pipeline_parallel_size=3", "does not divide num_hidden_layers=28 of .*; use 1, 2, 4, 7"),
    ],
)  # fmt: skip
def test_a_size_that_does_not_divide_the_model_is_refused(override, message):
    with pytest.raises(ValueError, match=message):
        plan_of("qwen2.5_7b_dapo_math", 3, override)


def test_the_command_exits_1_and_proposes_when_it_does_not_fit(capsys):
    folder = EXAMPLES / "qwen2.5_32b_dapo_math"
    parser = argparse.ArgumentParser()
    add_plan_parser(parser.add_subparsers())
    words = ["plan", str(folder / "config.yaml"), f"--model-config={folder}/model_config.json"]
    arguments = parser.parse_args([*words, "--gpu-gib=32", "--nodes=4"])
    assert arguments.command(arguments) == 1
    assert "does not fit: the start phase needs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--nodes=0", "--nodes 0 is no cluster"),
        ("--gpus-per-node=-8", "--gpus-per-node -8 is no cluster"),
        ("--gpu-gib=0", "--gpu-gib 0.0 is no cluster"),
        ("--model-config=nowhere.json", "--model-config nowhere.json is no file"),
    ],
)
def test_a_word_of_the_command_that_cannot_be_is_refused_by_its_name(word, message):
    parser = argparse.ArgumentParser()
    add_plan_parser(parser.add_subparsers())
    config = EXAMPLES / "qwen2.5_32b_dapo_math" / "config.yaml"
    arguments = parser.parse_args(["plan", str(config), word])
    with pytest.raises(ValueError, match=message):
        arguments.command(arguments)
