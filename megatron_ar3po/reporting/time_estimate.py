"""Seconds of a training step, phase by phase, on a named accelerator: work over what the device does of it, by
efficiencies that are stated (`reporting.devices`) and not measured. docs/sizing.md has the formulas.

A replica and its servers are taken for typical: that one of many is the slowest, and that prompts are shared out
unevenly, is left out; so are evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from megatron_ar3po.algorithm.counterfactual_cost import expect_rounds
from megatron_ar3po.config.algorithm import RELATIVE_TO_GROUP
from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.model_shape import ModelShape
from megatron_ar3po.reporting.checkpoint_size import width_of
from megatron_ar3po.reporting.devices import CPU_THREAD, Device
from megatron_ar3po.reporting.memory_estimate import (
    MemoryEstimate,
    actor_bytes,
    kv_bytes_per_token,
    parked_weights,
    save_host_bytes,
    server_gpus,
    weight_peers,
)
from megatron_ar3po.reporting.pass_rates import PassRates
from megatron_ar3po.reporting.planned_responses import expected_of
from megatron_ar3po.reporting.rollout_forecast import Sampled, draw_lengths, play_rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Mean tokens of a prompt and of a response."""

    prompt: float
    response: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepForecast:
    """A step, over all replicas."""

    responses: float
    tokens: float
    trained_responses: float
    seconds: Mapping[str, float]  # by phase

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a forecast is of."""

    config: Config
    shape: ModelShape
    layout: ParallelLayout
    gpus_per_node: int
    memory: MemoryEstimate
    device: Device

    @property
    def gpus_of_server(self) -> int:
        if self.device is CPU_THREAD:
            return 1
        return server_gpus(self.config, self.layout, self.gpus_per_node)

    @property
    def num_servers(self) -> int:
        return self.layout.data_parallel_size * self.config.servers.servers_per_replica


def forecast_step(setting: Setting, rates: PassRates, lengths: Lengths) -> StepForecast:
    """Responses and tokens are expected values; seconds and what is trained on are those of prompts that are drawn."""
    device = setting.device
    sampled, rounds = _sample(setting, rates, lengths)
    responses = expect_responses(setting.config, rates, rounds.expected)
    of_servers = sampled.responses * setting.num_servers * rounds.of_played
    trained, trained_tokens = _count_trained(
        setting, sampled, lengths.response, setting.num_servers * rounds.of_played
    )
    seconds = {
        "rollout": rounds.of_played * sampled.seconds
        + of_servers / setting.num_servers * device.request_s
        + device.ledger_s,
        "train": train_seconds(setting, trained, trained_tokens, lengths.prompt),
        "publish": publish_seconds(setting),
        "turns": turn_seconds(setting),
        "save": save_seconds(setting),
        "other": device.step_s,
    }
    return StepForecast(
        responses=responses,
        tokens=responses * lengths.response,
        trained_responses=trained,
        seconds=seconds,
    )


def expect_responses(config: Config, rates: PassRates, rounds: float = 1.0) -> float:
    """Of a step: a stage is entered by prompts of which all responses before it were wrong, so a prompt gets
    sum over stages of size x E[(1 - p)^(responses before)]; k x sum (1 - p)^(k s) for equal ones. By another rule than
    `fixed` as in `planned_responses`; nothing is known of a user's own."""
    rollout, algorithm = config.rollout, config.algorithm
    if algorithm.dynamic_sampling:
        prompts = algorithm.prompts_per_round or rollout.prompts_per_step
        return rounds * prompts * rollout.max_responses_per_prompt
    if rollout.stage_rule != "fixed":
        by_rule = expected_of(rates.sample(), config)
        return rollout.prompts_per_step * (by_rule.responses if by_rule else math.nan)
    before, of_prompt = 0, 0.0
    for size in rollout.stage_sizes:
        of_prompt += size * rates.expect_unsolved(before)
        before += size
    return rollout.prompts_per_step * of_prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rounds:
    expected: float  # of a step; 1 without dynamic sampling
    of_played: float  # what the played round of each server stands for, its last prompt not being a whole one


def _sample(setting: Setting, rates: PassRates, lengths: Lengths) -> tuple[Sampled, _Rounds]:
    """Of one server in a round, and how many rounds a step takes."""
    rollout, algorithm = setting.config.rollout, setting.config.algorithm
    prompts, rounds = rollout.prompts_per_step, 1.0
    if algorithm.dynamic_sampling:
        size = rollout.max_responses_per_prompt
        mixed = 1 - rates.expect_unsolved(size) - rates.expect_all_correct(size)
        per_round = algorithm.prompts_per_round or prompts
        rounds, _ = expect_rounds(
            max(0.0, mixed),
            slots=prompts,
            per_round=per_round,
            max_rounds=algorithm.max_sampling_rounds,
        )
        prompts = per_round
    of_server = math.ceil(prompts / setting.num_servers)
    most = rollout.max_response_tokens
    drawn = draw_lengths(
        of_server * rollout.max_responses_per_prompt, mean=lengths.response, most=most
    )
    sampled = play_rollout(
        rates.draw(of_server).tolist(),
        drawn.tolist(),
        stage_sizes=rollout.stage_sizes,
        slots=slots_of_server(setting),
        iteration_s=lambda batch: iteration_seconds(
            setting, batch, lengths.prompt + lengths.response / 2
        ),
        admit_s=prefill_seconds(setting, lengths.prompt),
    )
    share = prompts / (of_server * setting.num_servers)
    return sampled, _Rounds(expected=rounds, of_played=rounds * share)


def slots_of_server(setting: Setting) -> int:
    config = setting.config
    longest = config.data.max_prompt_tokens + config.rollout.max_response_tokens
    kv_tokens = setting.memory.kv_tokens
    if setting.device is CPU_THREAD:
        kv_tokens = config.servers.max_total_tokens
    return config.servers.max_concurrent_requests or max(1, kv_tokens // longest)


def iteration_seconds(setting: Setting, batch: int, context_tokens: float) -> float:
    """A decode iteration of `batch` sequences: the weights and their keys and values are read once, and the products
    of `batch` tokens are done; whichever takes longer."""
    device, shape, gpus = setting.device, setting.shape, setting.gpus_of_server
    width = width_of(setting.config)
    read = shape.num_parameters * width / gpus
    read += batch * context_tokens * kv_bytes_per_token(shape, gpus, width)
    products = 2 * shape.num_parameters * batch / gpus
    busy = max(
        read / (device.memory_rate * device.decode_efficiency),
        products / (device.flops * device.prefill_efficiency),
    )
    talk = shape.num_layers * device.layer_s if gpus > 1 else 0.0
    is_slowed = setting.config.run.deterministic
    slower = device.deterministic_factor if is_slowed else 1.0
    return (
        busy * device.decode_factor * slower + talk + device.iteration_s + batch * device.sequence_s
    )


def prefill_seconds(setting: Setting, prompt_tokens: float) -> float:
    """To read one prompt; its own siblings read it again where they are sent at the same moment."""
    device, shape = setting.device, setting.shape
    flops = 2 * layer_parameters(shape) * prompt_tokens / setting.gpus_of_server
    return flops / (device.flops * device.prefill_efficiency)


def layer_parameters(shape: ModelShape) -> int:
    """Without embedding and output layer."""
    return shape.num_layers * (shape.sharded_layer_parameters + shape.whole_layer_parameters)


def _count_trained(
    setting: Setting, sampled: Sampled, mean_tokens: float, servers: float
) -> tuple[float, float]:
    """(responses, their tokens) that a step trains on. Without a borrowed response: what a store will hold is not
    known before. `servers`: how often what was played happens in a step."""
    rollout, algorithm = setting.config.rollout, setting.config.algorithm
    if algorithm.dynamic_sampling:
        trained = float(rollout.prompts_per_step * rollout.max_responses_per_prompt)
        return trained, trained * mean_tokens
    if algorithm.advantage not in RELATIVE_TO_GROUP:
        return sampled.responses * servers, sampled.tokens * servers
    kept = 1.0
    if algorithm.downsample_to:
        kept = min(1.0, algorithm.downsample_to / rollout.max_responses_per_prompt)
    return sampled.mixed_responses * servers * kept, sampled.mixed_tokens * servers * kept


def train_seconds(
    setting: Setting, responses: float, response_tokens: float, prompt_tokens: float
) -> float:
    """Of all optimizer steps of one training step, on one replica; what is given are the rows that it sampled."""
    config, layout, device = setting.config, setting.layout, setting.device
    dp, mini = layout.data_parallel_size, config.algorithm.num_mini_batches
    updates = config.algorithm.updates_per_step
    with_replayed = 1 / (1 - config.reuse.replay_frac)
    responses, response_tokens = responses * with_replayed, response_tokens * with_replayed
    tokens = (response_tokens + responses * prompt_tokens) / dp
    length = tokens * dp / responses if responses else 0.0
    flops = train_flops(setting, tokens, response_tokens / dp, length)
    rate = device.flops * device.train_efficiency * layout.replica_size
    micro_batches = updates * math.ceil(tokens / mini / config.actor.max_tokens_per_microbatch)
    stages = layout.pipeline_parallel_size
    bubble = (micro_batches / updates + stages - 1) / max(1, micro_batches / updates)
    moved = updates * update_seconds(setting)
    return flops / rate * bubble + micro_batches * device.micro_batch_s + moved


def train_flops(setting: Setting, tokens: float, response_tokens: float, length: float) -> float:
    """Of one replica. A token takes 2 operations a parameter forward and 4 backward, and attention to half of its
    sequence 2 x length x q a layer forward; a second forward pass where it is recomputed. The output layer sees
    response tokens alone, and computes their logits once more in the backward pass. Old log-probs are a forward pass of
    all mini-batches but the first, and of all in every one of several passes over the batch; a reference policy one of
    all."""
    config, shape = setting.config, setting.shape
    forward = 2 * layer_parameters(shape) * tokens
    forward += 2 * shape.num_layers * length * shape.q_size * tokens
    output = 2 * shape.embedding_parameters * response_tokens
    passes = 4.0 if config.actor.recompute == "full" else 3.0
    algorithm = config.algorithm
    mini, epochs = algorithm.num_mini_batches, algorithm.num_epochs
    extra = 0.0
    if algorithm.old_logprobs == "recompute":
        extra += (mini - 1) / mini if epochs == 1 else epochs
    extra += epochs if algorithm.kl_coef else 0.0
    return (epochs * passes + extra) * forward + (epochs * 4.0 + extra) * output


def update_seconds(setting: Setting) -> float:
    """Of one optimizer step: gradients are summed over the replicas and the weights gathered, 4 bytes and `width` a
    parameter; moments, copies and weights are read and written."""
    config, layout, device = setting.config, setting.layout, setting.device
    width, peers = width_of(config), weight_peers(layout)
    held = setting.shape.parameters_of_largest_rank(
        layout.tensor_parallel_size, layout.pipeline_parallel_size
    )
    is_inside_node = layout.replica_size * layout.data_parallel_size <= setting.gpus_per_node
    rate = device.link_rate if is_inside_node else device.network_rate
    talked = held * (4 + width) * (peers - 1) / peers / (rate * device.move_efficiency)
    sharing = peers if config.actor.use_distributed_optimizer else 1
    touched = held * 28 / sharing  # gradient read; copy, two moments read and written
    return talked + touched / (device.memory_rate * device.decode_efficiency)


def publish_seconds(setting: Setting) -> float:
    """All weights to each server, bucket by bucket, over the links of its GPUs."""
    device, config = setting.device, setting.config
    size = setting.shape.num_parameters * width_of(config)
    size_of_replica = size * config.servers.servers_per_replica
    buckets = math.ceil(size / config.weight_sync.bucket_bytes)
    rate = device.link_rate * device.move_efficiency * setting.gpus_of_server
    return device.publish_s + buckets * device.bucket_s + size_of_replica / rate


def turn_seconds(setting: Setting) -> float:
    """What is parked goes to the host and comes back, once a step; each GPU has its own way there."""
    config, device = setting.config, setting.device
    actor = actor_bytes(config, setting.shape, setting.layout, width_of(config))
    moved = 2 * (actor["weights"] - parked_weights(config, actor) + actor["optimizer"])
    return device.turn_s + moved / (device.host_rate * device.move_efficiency)


def save_seconds(setting: Setting) -> float:
    """A step's share of what training waits for: the copy to the host. Of files that it waits for
    (`checkpoint.in_background=false`) nothing is known."""
    config = setting.config
    if not config.checkpoint.every_steps:
        return 0.0
    actor = actor_bytes(config, setting.shape, setting.layout, width_of(config))
    device = setting.device
    copied = save_host_bytes(actor, setting.layout)
    return copied / (device.host_rate * device.move_efficiency) / config.checkpoint.every_steps
