"""The plan's bytes: three examples worked by hand, and Megatron's own allocations on the meta device beside them. Not
exercised: whether the estimates of activations and runtimes hold on a GPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_ar3po.config.load import load_config
from megatron_ar3po.model_shape import read_policy_shape
from megatron_ar3po.reporting.checkpoint_size import width_of
from megatron_ar3po.reporting.layout_plan import Cluster, Plan, make_plan, refusal
from megatron_ar3po.reporting.memory_estimate import (
    GIB,
    MIB,
    actor_bytes,
    estimate_memory,
    graph_bytes,
    output_gradient_bytes,
)
from megatron_ar3po.reporting.plan import lines_of
from megatron_ar3po.wiring.layout_checks import layout_of_job

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "tests" / "harness" / "build_buffers.py"
# Nodes, and GiB of a GPU worked by hand: docs/sizing.md has the steps for 32B.
BY_HAND = {
    "qwen2.5_32b_dapo_math": (4, 7.63, 15.26, 11.44, 1.69, 153, 107, 427),
    "qwen2.5_7b_dapo_math": (1, 7.09, 14.19, 10.64, 2.68, 142, 99, 99),
    "llama3.1_8b_dapo_math": (1, 7.48, 14.96, 11.22, 3.06, 150, 105, 105),
}
# name: example, ranks, tp, pp, cp, the rank that is built, dtype
LAYOUTS: dict[str, tuple[str, int, int, int, int, int, str]] = {
    **{
        name: (name, 8 * nodes, 8 if nodes == 4 else 2, 1, 1, 0, "bfloat16")
        for name, (nodes, *_) in BY_HAND.items()
    },
    "the last stage": ("qwen2.5_32b_dapo_math", 32, 8, 2, 1, 31, "bfloat16"),
    "context parallel": ("qwen2.5_7b_dapo_math", 8, 2, 2, 2, 7, "float32"),
}


def plan_of(name: str, *overrides: str, nodes: int, gib: float = 79) -> Plan:
    folder = ROOT / "examples" / name
    config = load_config([folder / "config.yaml"], overrides)
    cluster = Cluster(num_nodes=nodes, gpus_per_node=8, gpu_bytes=int(gib * GIB))
    return make_plan(config, read_policy_shape(folder / "model_config.json"), cluster)


@pytest.fixture(scope="module")
def allocated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    """In a process of its own: the fake process group would be the whole session's."""
    wanted: dict[str, list[Any]] = {}
    for name, (example, *layout) in LAYOUTS.items():
        folder = tmp_path_factory.mktemp("shape")
        model = ROOT / "examples" / example / "model_config.json"
        (folder / "config.json").write_text(model.read_text("utf-8"), encoding="utf-8")
        wanted[name] = [str(folder), *layout]
    command = [sys.executable, "-W", "ignore", str(PROGRAM), json.dumps(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert "RESULT" in done.stdout, done.stderr[-3000:]
    return json.loads(done.stdout.split("RESULT", 1)[1])


@pytest.mark.parametrize("name", BY_HAND)
def test_the_examples_are_what_was_worked_by_hand(name):
    nodes, weights, gradients, optimizer, activations, parked, saving, checkpoint = BY_HAND[name]
    memory = plan_of(name, nodes=nodes).memory
    train = memory.of("train")
    found = [train[part] / GIB for part in ("weights", "gradients", "optimizer", "activations")]
    assert found == pytest.approx([weights, gradients, optimizer, activations], rel=0.03)
    of_node = [8 * memory.host_bytes_per_rank / GIB, 8 * memory.save_host_bytes_per_rank / GIB]
    assert of_node == pytest.approx([parked, saving], rel=0.03)
    assert memory.checkpoint_bytes / GIB == pytest.approx(checkpoint, rel=0.03)


@pytest.mark.parametrize("name", LAYOUTS)
def test_megatron_allocates_what_the_plan_says(name, allocated):
    """Its buffers are padded by a few elements for each parameter, which the plan leaves out."""
    example, world, tp, pp, cp, _, dtype = LAYOUTS[name]
    words = [
        *(f"actor.tensor_parallel_size={tp}", f"actor.pipeline_parallel_size={pp}"),
        *(f"actor.context_parallel_size={cp}", f"model.dtype={dtype}"),
    ]
    folder = ROOT / "examples" / example
    config = load_config([folder / "config.yaml"], words)
    layout = layout_of_job(config, world_size=world)
    shape = read_policy_shape(folder / "model_config.json")
    planned = actor_bytes(config, shape, layout, width_of(config))
    assert allocated[name] == {part: pytest.approx(n, rel=1e-3) for part, n in planned.items()}


def test_a_layout_that_does_not_fit_at_the_start_alone_is_refused():
    """32B at TP 8 on 64 nodes: the optimizer is 12 bytes of 4.10 billion parameters over 64 replicas, 0.72 GiB, so
    packing holds 7.63 - 0.72 more at the start: 7.63 + 15.26 + 0.72 + 6.91 + 3.5 = 34.0 GiB, of 33.9. Training
    takes 7.63 + 15.26 + 0.72 + 1.69 + 0.43 + 0.70 + 4.5 = 30.9 there, with a server of a lesser GPU's graphs."""
    plan = plan_of(
        "qwen2.5_32b_dapo_math",
        *("rollout.prompts_per_step=256", "servers.sglang.mem_fraction_static=0.6"),
        *("servers.sglang.cuda_graph_max_bs=64", "weight_sync.bucket_bytes=100000000"),
        nodes=64,
        gib=33.9,
    )
    (problem,) = plan.problems
    assert problem.startswith("the start phase needs 34.0 GiB a GPU, of 34")
    assert "the start phase needs" in refusal(plan)


def test_a_phase_with_less_than_5_percent_to_spare_is_tight():
    """A server of 32B takes 0.9 of 75.5 GiB, and a revival 9.6 GiB more: 68.0 + 9.6 + 5.5 does not fit; 0.82 does, with
    1.9 of 79 to spare."""
    plan = plan_of("qwen2.5_32b_dapo_math", "servers.sglang.mem_fraction_static=0.82", nodes=4)
    assert plan.problems == ()
    assert [row.phase for row in plan.memory.tight(plan.cluster.gpu_bytes)] == ["revival"]
    text = "\n".join(lines_of(plan))
    assert "CUDA graphs 1.0  tight" in text and "tight: less than 5% to spare" in text


def test_context_parallelism_cuts_activations_and_shares_the_optimizer():
    """7B at TP 2 on one node: CP 2 halves the replicas, so each optimizer is shared by the same four ranks."""
    plain = plan_of("qwen2.5_7b_dapo_math", nodes=1).memory.of("train")
    cut = plan_of("qwen2.5_7b_dapo_math", "actor.context_parallel_size=2", nodes=1).memory
    assert cut.of("train")["activations"] * 2 == plain["activations"]
    assert cut.of("train")["optimizer"] == plain["optimizer"]


def test_the_gradient_of_the_output_weight_is_held_twice_over_chunks():
    """TP 8 of 152,064 x 5,120, 97.3 million: 4 bytes summed and 2 of the chunk that is added; of one chunk, 2. Beside
    it the gradient of 16,384 hidden states of 5,120 x 2 bytes."""
    rows, hidden = 152_064 // 8, 16_384 * 5120 * 2
    for chunk, of_weight in ((2048, 6), (16_384, 2)):
        plan = plan_of("qwen2.5_32b_dapo_math", f"actor.logprob_chunk_tokens={chunk}", nodes=4)
        found = output_gradient_bytes(plan.config, plan.shape, plan.layout, 2)
        assert found == rows * 5120 * of_weight + hidden


@pytest.mark.parametrize(
    ("words", "tp", "gib", "mib"),
    [
        ([], 8, 79, 1024),
        ([], 2, 79, 512),
        ([], 1, 139, 512),
        ([], 1, 180, 1024),
        ([], 1, 24, 96),
        (["servers.sglang.cuda_graph_max_bs=64"], 8, 79, 128),
        (["servers.sglang.max_running_requests=100"], 8, 79, 200),
        (["servers.sglang.disable_cuda_graph=true"], 8, 79, 0),
    ],
)
def test_cuda_graphs_take_2_mib_a_sequence_of_the_largest(words, tp, gib, mib):
    assert graph_bytes(load_config([], words), tp, int(gib * GIB)) == mib * MIB


def test_disk_is_for_the_checkpoints_that_are_kept_and_the_one_being_written():
    """7B: 14 bytes of 7.6157 billion parameters three times, 2 bytes of them once, and the responses of 30 steps, at
    most 2,048 of 11 x 4,096 + 600 bytes each."""
    plan = plan_of("qwen2.5_7b_dapo_math", nodes=1)
    one, responses = 14 * 7_615_616_512, 30 * 2048 * (11 * 4096 + 600)
    assert plan.memory.disk_bytes(2) == 3 * one + 2 * 7_615_616_512 + responses
    assert "disk of the run: 315 GiB (2 checkpoints of 99 GiB" in "\n".join(lines_of(plan))


def test_a_save_that_training_waits_for_needs_no_copy_in_host_memory():
    plan = plan_of("qwen2.5_7b_dapo_math", "checkpoint.in_background=false", nodes=1)
    assert plan.memory.save_host_bytes_per_rank == 0
    assert "no more for a save, which training waits for" in "\n".join(lines_of(plan))


def test_a_layout_whose_servers_cannot_cut_the_heads_is_no_proposal():
    """7B at TP 4 x PP 2: one server of 8 GPUs, and 28 heads are not cut into 8. TP 4 x PP 1 is what is proposed."""
    words = ["actor.tensor_parallel_size=4", "actor.pipeline_parallel_size=2"]
    plan = plan_of("qwen2.5_7b_dapo_math", *words, nodes=1)
    assert "28 attention heads with 4 key and value heads are not cut into 8" in plan.problems[0]
    assert "The nearest layout that fits is tp 4 x pp 1 x dp 2" in refusal(plan)


def test_the_estimate_says_the_same_for_a_server_that_cannot_be_placed():
    """Its rows are shown beside the problem."""
    plan = plan_of("qwen2.5_7b_dapo_math", "servers.servers_per_replica=3", nodes=1)
    assert "does not divide the 2 GPUs" in " ".join(plan.problems)
    memory = estimate_memory(
        plan.config, plan.shape, plan.layout, gpus_per_node=8, gpu_bytes=79 * GIB
    )
    assert memory.of("rollout")["server weights"] == 7_615_616_512


# Each line that docs/sizing.md names of a library, and what stands there.
SOURCES = {
    (
        "megatron.core",
        "distributed/param_and_grad_buffer.py",
        797,
    ): "self.param_data = torch.zeros(",
    ("megatron.core", "distributed/param_and_grad_buffer.py", 803): "self.grad_data = torch.zeros(",
    ("megatron.core", "distributed/distributed_data_parallel.py", 147): "grad_reduce_in_fp32",
    ("megatron.core", "distributed/distributed_data_parallel.py", 292): "intra_dp_cp_group",
    ("megatron.core", "optimizer/distrib_optimizer.py", 399): ".clone().float()",
    ("megatron.core", "optimizer/distrib_optimizer.py", 797): '"exp_avg": init_shard',
    ("megatron.core", "pipeline_parallel/schedules.py", 766): "pipeline_parallel_rank - 1",
    ("sglang", "srt/models/qwen2.py", 178): "max(1, self.total_num_kv_heads // tp_size)",
    ("sglang", "srt/models/qwen2.py", 167): "self.total_num_heads % tp_size == 0",
    ("sglang", "srt/mem_cache/kv_cache_configurator.py", 2990): "_profile_available_bytes",
    ("sglang", "srt/arg_groups/memory_hook.py", 368): "max_bs * 2",
}


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: f"{s[1]}:{s[2]}")
def test_the_page_names_the_lines_that_the_formulas_come_from(source):
    """Of the versions that are pinned; another version moves them, and the formulas want another look then."""
    package, file, line = source
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    text = (Path(spec.submodule_search_locations[0]) / file).read_text("utf-8").splitlines()
    assert SOURCES[source] in text[line - 1]
    page = (ROOT / "docs" / "sizing.md").read_text("utf-8")
    assert f":{line}" in page and Path(file).name in page
