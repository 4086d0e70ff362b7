"""Rules that span sections, checked before anything starts: algorithm against rollout and reuse, lengths against the
model and the micro-batch budget, files against the disk. Each message: what was found, what it clashes with, and what
to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from megatron_ar3po.config.algorithm import RELATIVE_TO_GROUP, AlgorithmConfig
from megatron_ar3po.config.data import DataConfig
from megatron_ar3po.config.declared import dotted_options
from megatron_ar3po.config.history_rules import check_history, history_warnings
from megatron_ar3po.config.log_size import most_log_bytes_of_step
from megatron_ar3po.config.replay_rules import check_replay, replay_warnings
from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.rules import require
from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.model_shape import ModelShape, read_model_shape

# SGLang cuts a response short that would come closer to the end of the context, or of the KV cache; and it refuses a
# prompt that leaves less than six tokens of the larger one free (tp_worker.py, max_req_input_len).
SERVER_MARGIN_TOKENS, SERVER_PROMPT_MARGIN_TOKENS = 2, 7
_LARGE_LOG_BYTES = 1e9
_LAST_PORT = 65535


def validate(
    config: Config,
    layout: ParallelLayout,
    *,
    shape: ModelShape | None = None,
    has_gpu: Callable[[], bool] = lambda: False,
) -> None:
    """Raises ValueError for the first rule that does not hold. `shape`: of a model that need not be on this machine,
    nor the files that the config names; `has_gpu`: of the machine that will run it."""
    if shape is None:
        _check_method(config)
        _check_files(config)
        shape = read_model_shape(config.model.path)
    _check_lengths(config, shape)
    shape.check_layout(layout)
    validate_without_model(config, layout, has_gpu=has_gpu)


def validate_without_model(
    config: Config, layout: ParallelLayout, *, has_gpu: Callable[[], bool]
) -> None:
    """What can be said where nothing is known of the model."""
    _check_method(config)
    _check_kv_cache(config, has_gpu)
    check_replicas(config, layout)
    _check_servers(config, layout)
    _check_context_parallel(config)


def _check_method(config: Config) -> None:
    _check_allowed_changes(config)
    _check_algorithm(config)
    check_replay(config)
    _check_rewards(config)
    _check_deterministic(config)


def warnings_of(config: Config) -> list[str]:
    """Options that were set and have no effect in this setup, and what may surprise later, one line each."""
    lines: list[str] = []
    if not config.reuse.enabled and config.algorithm.name == "ar3po":
        rest = "reuse.* but reuse.replay_*" if config.reuse.replay_frac else "reuse.*"
        lines.append(f"reuse.enabled=false: unsolved groups borrow nothing; {rest} has no effect.")
    if (
        config.data.selection == "epoch"
        and config.data.exploration_frac != DataConfig().exploration_frac
    ):
        lines.append(
            f"data.exploration_frac={config.data.exploration_frac:g} has no effect with data.selection=epoch."
        )
    if config.reuse.max_logprob_drift and config.reuse.option != "recompute":
        lines.append(
            f"reuse.max_logprob_drift={config.reuse.max_logprob_drift:g} has no effect with "
            f"reuse.option={config.reuse.option}: it turns Option I (recompute) into Option II."
        )
    if config.actor.min_learning_rate and config.actor.lr_decay == "constant":
        lines.append(
            f"actor.min_learning_rate={config.actor.min_learning_rate:g} has no effect with actor.lr_decay=constant."
        )
    if config.servers.start_timeout_s >= config.run.collective_timeout_s:
        lines.append(
            f"servers.start_timeout_s={config.servers.start_timeout_s:g} is not below run.collective_timeout_s="
            f"{config.run.collective_timeout_s:g}: of several ranks, those that wait for the one that waits for a "
            "server give up before it does. Raise run.collective_timeout_s."
        )
    lines += _rollout_warnings(config.rollout)
    lines += _algorithm_warnings(config)
    lines += history_warnings(config)
    lines += replay_warnings(config)
    lines += _response_log_warnings(config)
    return lines


def _response_log_warnings(config: Config) -> list[str]:
    """The log of responses loses its files to checkpoints alone."""
    of_step = most_log_bytes_of_step(config)
    of_run = config.run.num_steps * of_step
    is_written = config.debug.mode != "train_only"
    if config.checkpoint.every_steps or not is_written or of_run < _LARGE_LOG_BYTES:
        return []
    return [
        f"checkpoint.every_steps=0 keeps the responses of all steps in RUN/ledger/responses until the run ends, up to "
        f"{of_step / 1e6:.1f} MB a step and {of_run / 1e9:.1f} GB in all, and a run that was killed reads all of them "
        "to do its steps again. With checkpoint.every_steps=10, for instance, they go with the checkpoints."
    ]


def _algorithm_warnings(config: Config) -> list[str]:
    lines: list[str] = []
    advantage = config.algorithm.advantage
    has_no_std = advantage in ("rloo", "history") or ":" in advantage
    if has_no_std and config.algorithm.advantage_std != "population":
        lines.append(
            f"algorithm.advantage_std={config.algorithm.advantage_std} has no effect with "
            f"algorithm.advantage={advantage}."
        )
    if config.algorithm.dynamic_sampling is False and config.algorithm.max_sampling_rounds != 8:
        lines.append(
            "algorithm.max_sampling_rounds has no effect without algorithm.dynamic_sampling=true."
        )
    if config.algorithm.kl_coef == 0:
        idle = {"kl_in": "loss", "kl_estimator": "k3", "reference_refresh_steps": 0}
        lines += [
            f"algorithm.{name}={value} has no effect with algorithm.kl_coef=0."
            for name, default in idle.items()
            if (value := getattr(config.algorithm, name)) != default
        ]
    if not config.algorithm.entropy_target:
        lines += [
            f"algorithm.{name}={value:g} has no effect with algorithm.entropy_target=0."
            for name in ("entropy_coef_change", "entropy_coef_max")
            if (value := getattr(config.algorithm, name)) != getattr(AlgorithmConfig(), name)
        ]
    if config.algorithm.dynamic_sampling is False and config.algorithm.prompts_per_round:
        lines.append(
            "algorithm.prompts_per_round has no effect without algorithm.dynamic_sampling=true."
        )
    if config.algorithm.dynamic_sampling and config.reuse.enabled:
        lines.append(
            "algorithm.dynamic_sampling=true discards a group without a correct response before it could borrow: "
            "reuse.enabled=true has no effect on it."
        )
    if config.algorithm.downsample_to >= config.rollout.max_responses_per_prompt:
        lines.append(
            f"algorithm.downsample_to={config.algorithm.downsample_to} leaves every group whole: a prompt gets at most "
            f"{config.rollout.max_responses_per_prompt} responses."
        )
    return lines


def _rollout_warnings(rollout: RolloutConfig) -> list[str]:
    lines: list[str] = []
    if rollout.stage_plan:
        lines.append(
            f"rollout.stage_plan={rollout.stage_plan} rules: rollout.num_stages and (but for "
            "rollout.stage_rule=difficulty) rollout.responses_per_stage have no effect."
        )
    if rollout.cancel_solved:
        lines.append(
            "rollout.cancel_solved=true favours short answers: the longer siblings of a correct one are cut off. Watch "
            "rollout/cancel/*."
        )
    elif rollout.cancelled_counts_as != "nothing":
        lines.append(
            "rollout.cancelled_counts_as has no effect without rollout.cancel_solved=true."
        )
    return lines


def _check_allowed_changes(config: Config) -> None:
    known = dotted_options()
    for name in config.run.allow_changed:
        if not any(f"{name}.".startswith(f"{option}.") for option in known):
            (near,) = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise ValueError(
                f"run.allow_changed={config.run.allow_changed} names {name}, which is no option; the nearest one is "
                f"{near}."
            )


def _check_algorithm(config: Config) -> None:
    name, rollout, reuse = config.algorithm.name, config.rollout, config.reuse
    if name in ("grpo", "dapo"):
        group = rollout.max_responses_per_prompt
        require(
            len(rollout.stage_sizes) == 1,
            f"algorithm.name={name} samples in one stage, but rollout.num_stages={len(rollout.stage_sizes)}; set "
            f"rollout.num_stages=1 rollout.responses_per_stage={group} (or leave both unset), or algorithm.name=ar3po.",
        )
        require(
            not reuse.enabled,
            f"algorithm.name={name} borrows nothing, but reuse.enabled=true; set reuse.enabled=false or "
            "algorithm.name=ar3po.",
        )
    require(
        not (name == "grpo" and config.algorithm.dynamic_sampling),
        "algorithm.name=grpo with algorithm.dynamic_sampling=true is DAPO; set algorithm.name=dapo.",
    )
    require(
        not (rollout.max_tokens_per_step and config.algorithm.dynamic_sampling),
        f"rollout.max_tokens_per_step={rollout.max_tokens_per_step} stops stages, and dynamic sampling has one; bound "
        "its cost with algorithm.max_sampling_rounds and set rollout.max_tokens_per_step=0.",
    )
    check_history(config)
    advantage = config.algorithm.advantage
    needs_two = advantage in RELATIVE_TO_GROUP or config.algorithm.dynamic_sampling
    require(
        rollout.max_responses_per_prompt >= 2 or not needs_two,
        f"rollout.num_stages={rollout.num_stages} x rollout.responses_per_stage={rollout.responses_per_stage} gives "
        f"groups of one response, which say nothing with algorithm.advantage={advantage} and "
        f"algorithm.dynamic_sampling={str(config.algorithm.dynamic_sampling).lower()}; use at least 2, or "
        "algorithm.advantage=history.",
    )


def _check_rewards(config: Config) -> None:
    for name, own in config.rewards.of_each_source().items():
        own.check_lengths(config.rollout.max_response_tokens, name)


def _check_deterministic(config: Config) -> None:
    """What rests on which response arrives first is another one in every run."""
    rollout = config.rollout
    if not config.run.deterministic:
        return
    require(
        not rollout.cancel_solved,
        "rollout.cancel_solved=true cuts off what is in flight when the first correct response arrives, which no seed "
        "decides; with run.deterministic=true set rollout.cancel_solved=false.",
    )
    require(
        not rollout.max_tokens_per_step or rollout.stage_scheduling == "barrier",
        f"rollout.max_tokens_per_step={rollout.max_tokens_per_step} gives the step's tokens to the prompts that come "
        "first, which no seed decides under rollout.stage_scheduling=continuous; with run.deterministic=true set "
        "rollout.stage_scheduling=barrier or rollout.max_tokens_per_step=0.",
    )


def check_data_path(config: Config) -> None:
    fields = f"data.prompt_field={config.data.prompt_field} and data.answer_field={config.data.answer_field}"
    require(
        bool(config.data.files),
        f"data.path=(empty) is no file; name a JSONL or Parquet file with the fields {fields}.",
    )
    for path in config.data.files:
        named = f"data.mixture: {path}" if config.data.mixture else f"data.path={path}"
        require(
            Path(path).is_file(),
            f"{named} is no file; name a JSONL or Parquet file with the fields {fields}.",
        )


def _check_files(config: Config) -> None:
    if config.debug.mode == "train_only":
        require(
            bool(config.debug.replay_path) and Path(config.debug.replay_path).is_file(),
            f"debug.mode=train_only needs a dumped step, but debug.replay_path={config.debug.replay_path or '(empty)'} "
            "is no file; dump one with debug.dump_steps=[1] and name RUN/dumps/step_00001.pt.",
        )
        return
    check_data_path(config)
    folder = config.model.megatron_path
    require(
        not folder or Path(folder).is_dir(),
        f"model.megatron_path={folder} is no folder; name one with a checkpoint that Megatron-LM has written, or leave "
        "it empty and load model.path.",
    )
    path = config.evaluation.path
    require(
        not path or Path(path).is_file(),
        f"evaluation.path={path} is no file; name a JSONL file or leave it empty.",
    )


def tokens_at_a_server(config: Config) -> int:
    """What the longest prompt and its longest response take of a server's context and of its KV cache."""
    prompt, response = config.data.max_prompt_tokens, config.rollout.max_response_tokens
    return prompt + max(response + SERVER_MARGIN_TOKENS, SERVER_PROMPT_MARGIN_TOKENS)


def _check_lengths(config: Config, shape: ModelShape) -> None:
    prompt, response = config.data.max_prompt_tokens, config.rollout.max_response_tokens
    needed = tokens_at_a_server(config)
    require(
        needed <= shape.max_positions,
        f"data.max_prompt_tokens={prompt} + rollout.max_response_tokens={response} exceed the context of "
        f"{config.model.path} (max_position_embeddings={shape.max_positions}, of which a server keeps "
        f"{needed - prompt - response} tokens); lower one of the two.",
    )
    stated = config.servers.sglang.get("context_length")
    if isinstance(stated, int) and config.debug.mode != "train_only":
        require(
            needed <= stated,
            f"servers.sglang.context_length={stated} is shorter than one prompt with its response, which take {needed} "
            f"tokens (data.max_prompt_tokens={prompt}, rollout.max_response_tokens={response}, and what the server "
            "keeps); leave it out, or raise it.",
        )
    budget = config.actor.max_tokens_per_microbatch
    require(
        prompt + response <= budget,
        f"data.max_prompt_tokens={prompt} + rollout.max_response_tokens={response} exceed "
        f"actor.max_tokens_per_microbatch={budget}: the longest sequence would not fit into one micro-batch; raise "
        f"actor.max_tokens_per_microbatch to at least {prompt + response}.",
    )


def check_kv_tokens(config: Config, kv_tokens: int, *, found: str, mend: str) -> None:
    """`found`: where the KV cache of so many tokens comes from, `mend`: how it grows."""
    needed = tokens_at_a_server(config)
    require(
        needed <= kv_tokens,
        f"{found}: the KV cache is smaller than one prompt with its response, which take {needed} tokens "
        f"(data.max_prompt_tokens={config.data.max_prompt_tokens}, "
        f"rollout.max_response_tokens={config.rollout.max_response_tokens}, and what the server keeps); {mend}, or "
        "lower one of the two.",
    )


def _check_kv_cache(config: Config, has_gpu: Callable[[], bool]) -> None:
    """As far as options state it: on a GPU the server finds its KV cache itself, and servers that run already have
    theirs."""
    servers = config.servers
    if config.debug.mode == "train_only" or servers.urls:
        return
    kv_tokens = servers.max_total_tokens
    found = f"servers.max_total_tokens={kv_tokens}, which rules where there is no GPU, as here"
    if isinstance(servers.sglang.get("max_total_tokens"), int):
        kv_tokens = servers.sglang["max_total_tokens"]
        found = f"servers.sglang.max_total_tokens={kv_tokens}"
    elif kv_tokens >= tokens_at_a_server(config) or has_gpu():
        return
    raise_it = f"raise it to at least {tokens_at_a_server(config)}"
    check_kv_tokens(config, kv_tokens, found=found, mend=raise_it)


def _check_servers(config: Config, layout: ParallelLayout) -> None:
    servers, replicas = config.servers, layout.data_parallel_size
    wanted = replicas * servers.servers_per_replica
    require(
        servers.port == 0 or servers.port + wanted - 1 <= _LAST_PORT,
        f"servers.port={servers.port} is the first of {wanted} ports, and the last one there is {_LAST_PORT}; "
        f"use at most {_LAST_PORT - wanted + 1}, or 0 for free ones.",
    )
    require(
        not servers.urls or len(servers.urls) == wanted,
        f"servers.urls names {len(servers.urls)} server(s), but {replicas} replica(s) with "
        f"servers.servers_per_replica={servers.servers_per_replica} use {wanted}; name each once, replica by replica.",
    )
    for url in servers.urls:
        require(
            servers.urls.count(url) == 1,
            f"servers.urls names {url} twice; name each server once, replica by replica.",
        )


def _check_context_parallel(config: Config) -> None:
    """A loss that looks at whole sequences would see a part of each on every rank, and nothing would tell."""
    size, algorithm = config.actor.context_parallel_size, config.algorithm
    if size == 1:
        return
    require(
        algorithm.policy_loss in ("ppo", "dual_clip", "cispo"),
        f"algorithm.policy_loss={algorithm.policy_loss} may look at whole sequences, which "
        f"actor.context_parallel_size={size} cuts; use ppo, dual_clip or cispo, or actor.context_parallel_size=1.",
    )
    require(
        algorithm.importance_sampling in ("off", "token", "token_mask"),
        f"algorithm.importance_sampling={algorithm.importance_sampling} looks at whole sequences, which "
        f"actor.context_parallel_size={size} cuts; use token, token_mask or off, or actor.context_parallel_size=1.",
    )


def check_replicas(config: Config, layout: ParallelLayout) -> None:
    require(
        config.rollout.prompts_per_step >= layout.data_parallel_size,
        f"rollout.prompts_per_step={config.rollout.prompts_per_step} is below the data-parallel size "
        f"{layout.data_parallel_size}; some replicas would never get a prompt: raise it.",
    )
