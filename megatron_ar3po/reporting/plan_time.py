"""The part of `ar3po plan` that says how long: seconds of a step by phase, and GPU-hours by method."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.presets import PRESETS
from megatron_ar3po.config.rules import require
from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.validate import validate
from megatron_ar3po.reporting.devices import GPUS, Device
from megatron_ar3po.reporting.pass_rates import PassRates, read_betas
from megatron_ar3po.reporting.time_estimate import Lengths, Setting, forecast_step

ASSUMED_RATES = "beta:0.4,0.6"
ASSUMED_SHARE_OF_LONGEST = 0.25
EFFICIENCIES = ("train_efficiency", "prefill_efficiency", "decode_efficiency", "move_efficiency")


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeQuestion:
    """What the words of the command ask for."""

    device: Device
    rates: PassRates
    lengths: Lengths
    are_rates_assumed: bool
    are_lengths_assumed: bool


def add_time_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gpu", choices=sorted(GPUS), help="also reckon seconds and GPU-hours on this kind"
    )
    parser.add_argument(
        "--pass-rates",
        metavar="RATES",
        help="how often prompts are solved: a number, beta:A,B, beta:W*A,B+W*A,B, JSONL with a pass rate (or responses "
        "and correct) a line, what ar3po history RUN --json printed, or an earlier run's folder [for seconds: "
        f"{ASSUMED_RATES}]",
    )
    parser.add_argument(
        "--pass-rate-field", default="pass_rate", metavar="NAME", help="default: %(default)s"
    )
    parser.add_argument(
        "--response-tokens",
        type=float,
        metavar="N",
        help="mean length of a response [that of the run in --pass-rates, or a quarter of the longest]",
    )
    parser.add_argument(
        "--prompt-tokens",
        type=float,
        metavar="N",
        help="mean length of a prompt [a quarter of the longest]",
    )
    for name in EFFICIENCIES:
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=float,
            metavar="SHARE",
            help=f"of the peak [{getattr(GPUS['h100'], name):g}]",
        )


def read_question(
    arguments: argparse.Namespace, config: Config, rates: PassRates | None
) -> TimeQuestion | None:
    """`rates`: those that were named. None where no --gpu is named. Raises ValueError for words that cannot be."""
    if arguments.gpu is None:
        given = [
            n for n in ("response_tokens", "prompt_tokens", *EFFICIENCIES) if getattr(arguments, n)
        ]
        require(
            not given,
            f"{', '.join(f'--{n}'.replace('_', '-') for n in given)}: seconds of a step need a kind of GPU; add "
            f"--gpu and one of {', '.join(sorted(GPUS))}.",
        )
        return None
    stated = {n: v for n in EFFICIENCIES if (v := getattr(arguments, n)) is not None}
    for name, value in stated.items():
        require(
            0 < value <= 1,
            f"--{name.replace('_', '-')} {value:g} is no share of a peak; use a number above 0 and at most 1.",
        )
    are_rates_assumed = rates is None
    rates = rates or read_betas(ASSUMED_RATES)
    longest = config.rollout.max_response_tokens
    response = arguments.response_tokens or rates.mean_tokens or ASSUMED_SHARE_OF_LONGEST * longest
    require(
        1 <= response <= longest,
        f"--response-tokens {response:g} is no mean length of responses of 1 to {longest} tokens "
        "(rollout.max_response_tokens).",
    )
    longest_prompt = config.data.max_prompt_tokens
    prompt = arguments.prompt_tokens or max(1.0, ASSUMED_SHARE_OF_LONGEST * longest_prompt)
    require(
        1 <= prompt <= longest_prompt,
        f"--prompt-tokens {prompt:g} is no mean length of prompts of 1 to {longest_prompt} tokens "
        "(data.max_prompt_tokens).",
    )
    return TimeQuestion(
        device=replace(GPUS[arguments.gpu], **stated),
        rates=rates,
        lengths=Lengths(prompt=prompt, response=response),
        are_rates_assumed=are_rates_assumed,
        are_lengths_assumed=arguments.response_tokens is None and rates.mean_tokens is None,
    )


def configs_by_method(
    setting: Setting, file: str, overrides: Sequence[str]
) -> Mapping[str, Config | str]:
    """The same config by other methods; a sentence in the place of one that the words exclude."""
    config = setting.config
    found: dict[str, Config | str] = {config.algorithm.name: config}
    for method in PRESETS:
        if method in found:
            continue
        try:
            other = load_config([file], [*overrides, f"algorithm.name={method}"])
            validate(other, setting.layout, shape=setting.shape, has_gpu=lambda: True)
            found[method] = other
        except ValueError as error:
            found[method] = str(error).partition(";")[0]
    return found


def lines_of_time(
    setting: Setting, question: TimeQuestion, methods: Mapping[str, Config | str]
) -> Iterator[str]:
    device, lengths = question.device, question.lengths
    own = forecast_step(setting, question.rates, lengths)
    yield (
        f"seconds a step on {device.name}, reckoned: {device.train_efficiency:.0%} of its peak in training, "
        f"{device.prefill_efficiency:.0%} in prefill, {device.decode_efficiency:.0%} of its memory rate in decoding, "
        f"{device.move_efficiency:.0%} of its links"
    )
    yield (
        f"  pass rates {question.rates.described}{_mark_assumed(question.are_rates_assumed)}; mean tokens: prompt "
        f"{lengths.prompt:.0f}, response {lengths.response:.0f}{_mark_assumed(question.are_lengths_assumed)}"
    )
    for phase, seconds in own.seconds.items():
        yield f"  {phase:<9}{seconds:8.1f}  {seconds / own.total_s:4.0%}"
    yield f"  {'step':<9}{own.total_s:8.1f}"
    yield ""
    yield from _table_of_methods(setting, question, methods)


def _mark_assumed(is_assumed: bool) -> str:
    return " (assumed)" if is_assumed else ""


def _table_of_methods(
    setting: Setting, question: TimeQuestion, methods: Mapping[str, Config | str]
) -> Iterator[str]:
    steps = setting.config.run.num_steps
    ranks = setting.layout.world_size
    yield (
        f"{'method':<9}{'responses':>11}{'a prompt':>10}{'trained on':>12}{'tokens':>12}{'seconds':>9}"
        f"{f'GPU-hours of {steps} steps':>26}"
    )
    for method, config in methods.items():
        if isinstance(config, str):
            yield f"{method:<9}  left out: {config}"
            continue
        step = forecast_step(replace(setting, config=config), question.rates, question.lengths)
        yield (
            f"{method:<9}{step.responses:>11,.0f}{step.responses / config.rollout.prompts_per_step:>10.2f}"
            f"{step.trained_responses:>12,.0f}{step.tokens:>12,.0f}{step.total_s:>9.1f}"
            f"{step.total_s * ranks * steps / 3600:>26,.1f}"
        )
    yield "  trained on: responses of groups with both outcomes, without borrowed ones"
