"""`ar3po plan`: what a run will need, before it costs anything: who sits where, the batch arithmetic, memory per GPU
by phase; and when it does not fit, the nearest layout that does. Needs a config and a `config.json`; a model and
prompts that are there are checked as a run checks them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.paths import parse_path
from megatron_ar3po.config.rules import require
from megatron_ar3po.config.schema import Config
from megatron_ar3po.model_shape import ModelShape, read_policy_shape
from megatron_ar3po.reporting.devices import GPUS
from megatron_ar3po.reporting.layout_plan import (
    Cluster,
    Plan,
    idle_gpus_in_rollout,
    make_plan,
    refusal,
)
from megatron_ar3po.reporting.memory_estimate import (
    GIB,
    TIGHT_FRAC,
    server_gpus,
)
from megatron_ar3po.reporting.pass_rates import PassRates, read_pass_rates
from megatron_ar3po.reporting.plan_time import (
    TimeQuestion,
    add_time_arguments,
    configs_by_method,
    lines_of_time,
    read_question,
)
from megatron_ar3po.reporting.planned_responses import lines_of_expected
from megatron_ar3po.reporting.spans import spans
from megatron_ar3po.reporting.time_estimate import Setting


def lines_of(plan: Plan) -> Iterator[str]:
    """The plan as it is printed."""
    yield f"model      {plan.shape.num_parameters / 1e9:.2f} billion parameters, {plan.config.model.dtype}"
    yield f"cluster    {plan.cluster}"
    yield f"layout     {plan.layout.describe()}"
    yield ""
    yield from _who_sits_where(plan)
    yield ""
    yield from _batch_arithmetic(plan)
    yield ""
    yield from _memory_table(plan)
    yield from _weights_that_could_stay(plan)
    idle = idle_gpus_in_rollout(plan)
    if idle:
        yield ""
        yield (
            f"note: {idle} of {plan.cluster.world_size} GPUs have no server and idle in the rollout phase: a server "
            "never spans nodes, and these hold pipeline stages away from their leader."
        )


def _who_sits_where(plan: Plan) -> Iterator[str]:
    layout, per_node = plan.layout, plan.cluster.gpus_per_node
    server_tp = server_gpus(plan.config, layout, per_node)
    servers = f"{plan.config.servers.servers_per_replica} of tp {server_tp}"
    yield f"{'replica':<10}{'leader':<8}{'nodes':<12}{'servers':<12}ranks"
    for dp in range(layout.data_parallel_size):
        ranks = layout.replica_ranks(dp)
        nodes = ",".join(str(n) for n in sorted({rank // per_node for rank in ranks}))
        yield f"{dp:<10}{layout.leader_rank(dp):<8}{nodes:<12}{servers:<12}{spans(ranks)}"


def _batch_arithmetic(plan: Plan) -> Iterator[str]:
    rollout, dp = plan.config.rollout, plan.layout.data_parallel_size
    prompts = rollout.prompts_per_step
    most = prompts * rollout.max_responses_per_prompt
    longest = plan.config.data.max_prompt_tokens + rollout.max_response_tokens
    per_forward = plan.config.actor.max_tokens_per_microbatch
    algorithm = plan.config.algorithm
    mini, passes = algorithm.num_mini_batches, algorithm.num_epochs
    updates = f"{passes} x {mini} optimizer steps" if passes > 1 else f"{mini} optimizer steps"
    yield f"a step     {prompts} prompts, {prompts / dp:g} a replica on average"
    yield (
        f"responses  {prompts * rollout.stage_sizes[0]} to {most} "
        f"({len(rollout.stage_sizes)} stages of {_sizes(rollout.stage_sizes)})"
        + (", before prompts are redrawn" if plan.config.algorithm.dynamic_sampling else "")
    )
    yield f"tokens     at most {most * longest:,} ({longest:,} a sequence)"
    yield (
        f"update     {updates} of at most {math.ceil(most / mini)} responses, each at most "
        f"{math.ceil(most * longest / (mini * dp * per_forward))} full micro-batches of {per_forward:,} tokens a "
        "replica"
    )
    yield (
        f"servers    a replica asks for {first_wave(plan)} responses at once, sends {sent_at_once(plan)}; the KV cache "
        f"holds {full_length_responses(plan)} of full length"
    )


def first_wave(plan: Plan) -> int:
    """Responses of the first stage that a replica asks for."""
    rollout = plan.config.rollout
    prompts = math.ceil(rollout.prompts_per_step / plan.layout.data_parallel_size)
    return prompts * rollout.stage_sizes[0]


def full_length_responses(plan: Plan) -> int:
    """That the KV caches of a replica's servers hold."""
    longest = plan.config.data.max_prompt_tokens + plan.config.rollout.max_response_tokens
    return plan.memory.kv_tokens // longest * plan.config.servers.servers_per_replica


def sent_at_once(plan: Plan) -> int:
    """Of a replica's first wave, what its servers get before a response is there."""
    servers = plan.config.servers
    slots = servers.max_concurrent_requests * servers.servers_per_replica
    return min(first_wave(plan), slots or max(1, full_length_responses(plan)))


def _weights_that_could_stay(plan: Plan) -> Iterator[str]:
    """`colocation.keep_actor_weights`, where it fits and costs no response its place in the KV cache."""
    colocation = replace(plan.config.colocation, keep_actor_weights=True)
    if plan.config.colocation == colocation:
        return
    kept = make_plan(replace(plan.config, colocation=colocation), plan.shape, plan.cluster)
    held = full_length_responses(kept)
    if not kept.problems and held >= sent_at_once(plan):
        yield (
            f"  colocation.keep_actor_weights=true fits too: {kept.memory.of('rollout')['weights'] / GIB:.1f} GiB less "
            f"to move twice a step; the KV cache holds {held} of full length"
        )


def _sizes(stage_sizes: tuple[int, ...]) -> str:
    return ", ".join(map(str, sorted(set(stage_sizes))))


def _memory_table(plan: Plan) -> Iterator[str]:
    available, memory = plan.cluster.gpu_bytes, plan.memory
    tight = {phase.phase for phase in memory.tight(available)}
    yield f"GiB a GPU, of {available / GIB:.0f} (activations and runtimes are estimates)"
    for phase in memory.phases:
        parts = ", ".join(f"{name} {held / GIB:.1f}" for name, held in phase.parts.items())
        verdict = "  tight" if phase.phase in tight else ""
        verdict = verdict if phase.total_bytes <= available else "  DOES NOT FIT"
        yield f"  {phase.phase:<9}{phase.total_bytes / GIB:6.1f}  = {parts}{verdict}"
    if tight:
        yield (
            f"  tight: less than {TIGHT_FRAC:.0%} to spare, which an estimate may be off by; lower "
            "actor.max_tokens_per_microbatch (train) or servers.sglang.mem_fraction_static (rollout, revival)"
        )
    yield _host_memory(plan)
    yield _disk(plan)


def _host_memory(plan: Plan) -> str:
    per_node, memory = plan.cluster.gpus_per_node, plan.memory
    parked = memory.host_bytes_per_rank * per_node / GIB
    saving = memory.save_host_bytes_per_rank * per_node / GIB
    copy = (
        f"{saving:.0f} GiB more from a save until it is written"
        if saving
        else "no more for a save, which training waits for (checkpoint.in_background=false)"
    )
    return f"  host memory of a node, held to the end: {parked:.0f} GiB to park weights and optimizer state; {copy}"


def _disk(plan: Plan) -> str:
    checkpoint, memory = plan.config.checkpoint, plan.memory
    one = memory.checkpoint_bytes
    parts = [f"{checkpoint.keep_last} checkpoints of {one / GIB:.0f} GiB and one being written"]
    if memory.export_bytes:
        parts.append(f"{memory.export_bytes / GIB:.0f} GiB of the export")
    parts.append(f"at most {memory.response_log_bytes / GIB:.0f} GiB of responses")
    total = memory.disk_bytes(checkpoint.keep_last)
    return f"  disk of the run: {total / GIB:.0f} GiB ({', '.join(parts)}), the reuse store apart"


def add_plan_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "plan",
        description="Who sits where, the batch arithmetic and memory per GPU, without a GPU. Exit code 1 when it does "
        "not fit.",
    )
    parser.add_argument("config", metavar="CONFIG", help="a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument(
        "--gpu-gib", type=float, help="memory of a GPU [that of --gpu, or 79: H100, A100 80 GB]"
    )
    add_time_arguments(parser)
    parser.add_argument(
        "--model-config",
        type=parse_path,
        help="a config.json [that of model.path; when it is not on this machine, model_config.json beside CONFIG]",
    )
    parser.set_defaults(command=plan_command)


def _read_shape(config: Config, arguments: argparse.Namespace) -> ModelShape:
    beside = parse_path(arguments.config).parent / "model_config.json"
    is_here = (Path(config.model.path) / "config.json").is_file()
    file = arguments.model_config or (beside if beside.is_file() and not is_here else None)
    require(
        not file or file.is_file(),
        f"--model-config {file} is no file; name the config.json of a Hugging Face checkpoint.",
    )
    return read_policy_shape(file or config.model.path)


def _check_as_a_run_does(plan: Plan) -> list[str]:
    """Raises ValueError where it would be refused. What is not on this machine cannot be looked at: a line each."""
    from megatron_ar3po.wiring.start_checks import check_data, check_start  # slow to import

    config = plan.config
    option = "data.mixture" if config.data.mixture else "data.path"
    needed = [("model.path", config.model.path)]
    needed += [(option, path) for path in config.data.files or [""]]
    elsewhere = [
        f"{name}={path or '(empty)'}" for name, path in needed if not Path(path or "-").exists()
    ]
    shape = plan.shape if elsewhere else None
    check_start(
        config,
        plan.layout,
        shape=shape,
        has_gpu=True,
        ranks_per_node=plan.cluster.gpus_per_node,
    )
    if not elsewhere:
        check_data(config)
        return []
    return [
        "",
        f"note: {' and '.join(elsewhere)} cannot be found here, so weights, prompts and ground truths were not looked "
        "at; ar3po train CONFIG --dry-run does where they are.",
    ]


def _lines_of_responses(rates: PassRates | None, config: Config) -> list[str]:
    if rates is None:
        return []
    return ["", *lines_of_expected(list(rates.sample()), config, rates.described)]


def _lines_of_time(
    plan: Plan, question: TimeQuestion | None, arguments: argparse.Namespace
) -> list[str]:
    if question is None:
        return []
    setting = Setting(
        config=plan.config,
        shape=plan.shape,
        layout=plan.layout,
        gpus_per_node=plan.cluster.gpus_per_node,
        memory=plan.memory,
        device=question.device,
    )
    methods = configs_by_method(setting, arguments.config, arguments.overrides)
    return ["", *lines_of_time(setting, question, methods)]


def plan_command(arguments: argparse.Namespace) -> int:
    memory_gib = arguments.gpu_gib
    if memory_gib is None:
        memory_gib = GPUS[arguments.gpu or "h100"].memory_gib
    for option, value in (
        ("nodes", arguments.nodes),
        ("gpus_per_node", arguments.gpus_per_node),
        ("gpu_gib", memory_gib),
    ):
        require(
            value >= 1,
            f"--{option.replace('_', '-')} {value} is no cluster; it must be at least 1.",
        )
    config = load_config([arguments.config], arguments.overrides)
    rates = read_pass_rates(arguments.pass_rates, arguments.pass_rate_field)
    shape = _read_shape(config, arguments)
    question = read_question(arguments, config, rates)
    cluster = Cluster(
        num_nodes=arguments.nodes,
        gpus_per_node=arguments.gpus_per_node,
        gpu_bytes=int(memory_gib * GIB),
    )
    plan = make_plan(config, shape, cluster)
    unread = _check_as_a_run_does(plan)
    time = _lines_of_time(plan, question, arguments)
    print("\n".join([*lines_of(plan), *_lines_of_responses(rates, config), *time, *unread]))
    if plan.problems:
        print(f"\ndoes not fit: {refusal(plan)}")
        return 1
    return 0
