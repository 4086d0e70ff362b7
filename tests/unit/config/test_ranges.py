"""Every number has a declared range; what lies outside is refused by name, value and range."""

import dataclasses
import typing
from typing import Any

import pytest

from megatron_ar3po.config.actor import ActorConfig
from megatron_ar3po.config.declared import dotted_options, fields_of
from megatron_ar3po.config.evaluation import EvaluationConfig
from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.ranges import Range, ZeroOr, declared_ranges
from megatron_ar3po.config.schema import Config


def numbers() -> dict[str, type]:
    """Every option that is a number or a list of numbers."""
    found = {}
    for dotted in dotted_options():
        section, option = dotted.split(".")
        hint = fields_of(fields_of(Config)[section])[option]
        inner = typing.get_args(hint)[0] if typing.get_origin(hint) is list else hint
        if inner in (int, float):
            found[dotted] = inner
    return found


def range_of(dotted: str) -> Any:
    section, option = dotted.split(".")
    return declared_ranges(fields_of(Config)[section]).get(option)


def test_every_number_declares_its_range_and_its_default_lies_in_it():
    assert len(numbers()) > 75
    assert [dotted for dotted in numbers() if range_of(dotted) is None] == []
    load_config([])  # the defaults


@pytest.mark.parametrize("value", ["nan", ".nan", "inf", "-.inf", "1e400", "-1e400"])
@pytest.mark.parametrize("dotted", [name for name, kind in numbers().items() if kind is float])
def test_no_rate_is_infinite_or_nothing(dotted, value):
    with pytest.raises(ValueError, match=rf"^{dotted}=(nan|inf|-inf) is out of range; it must be "):
        load_config([], [f"{dotted}={value}"])


@pytest.mark.parametrize("dotted", numbers())
def test_just_outside_its_range_a_number_is_refused_by_name_value_and_range(dotted):
    kind, allowed = numbers()[dotted], range_of(dotted)
    ends = allowed.range if isinstance(allowed, ZeroOr) else allowed
    step = 1 if kind is int else 1e-9 * max(1, abs(ends.le or 0))
    outside = [
        ends.gt if ends.ge is None else -1 if isinstance(allowed, ZeroOr) else ends.ge - step,
        ends.lt if ends.le is None else ends.le + step,
    ]
    is_list = typing.get_origin(
        fields_of(fields_of(Config)[dotted.split(".")[0]])[dotted.split(".")[1]]
    )
    for value in outside:
        with pytest.raises(ValueError) as error:
            load_config([], [f"{dotted}=[{value!r}]" if is_list else f"{dotted}={value!r}"])
        assert str(error.value).startswith(f"{dotted}=")
        assert str(error.value).endswith(f" is out of range; it must be {allowed}.")


@pytest.mark.parametrize(
    ("word", "allowed"),
    [
        ("actor.learning_rate=-1", "0 to 100"),
        ("actor.clip_grad=-1", "0 to 1000000"),
        ("actor.adam_beta1=1.5", "at least 0 and below 1"),
        ("actor.weight_decay=-3", "0 to 100"),
        ("actor.lr_warmup_steps=-3", "at least 0 and below 2^31"),
        ("actor.logprob_chunk_tokens=0", "at least 1 and below 2^31"),
        ("algorithm.entropy_coef=nan", "-1000000 to 1000000"),
        ("algorithm.downsample_to=1", "0, or at least 2 and below 2^31"),
        ("checkpoint.every_steps=-1", "at least 0 and below 2^31"),
        ("evaluation.temperature=-1", "0 to 1000"),
        ("evaluation.top_p=0", "1e-06 to 1"),
        ("evaluation.top_p=2", "1e-06 to 1"),
        ("evaluation.max_prompts=-3", "at least 0 and below 2^31"),
        ("rewards.max_error_frac=-1", "0 to 1"),
        ("rewards.correct=inf", "-1000000 to 1000000"),
        ("rollout.num_stages=0", "1 to 1024"),
        ("run.seed=99999999999999999999", "at least 0 and below 2^63"),
        ("servers.port=99999", "0 to 65535"),
        ("servers.hang_timeout_s=-1", "0 to 1000000"),
    ],
)
def test_a_number_out_of_range_is_one_sentence(word, allowed):
    with pytest.raises(ValueError) as error:
        load_config([], [word])
    assert str(error.value) == f"{word} is out of range; it must be {allowed}."


def test_a_number_of_a_list_is_shown_in_its_list():
    with pytest.raises(ValueError) as error:
        load_config([], ["rollout.stage_plan=[4,0]"])
    assert str(error.value) == (
        "rollout.stage_plan=0 (in [4, 0]) is out of range; it must be 1 to 65536."
    )


def test_a_section_that_is_made_or_changed_in_code_is_checked_too():
    with pytest.raises(ValueError, match=r"actor.clip_grad=-1 is out of range"):
        ActorConfig(clip_grad=-1)
    with pytest.raises(ValueError, match=r"evaluation.samples_per_prompt=0 is out of range"):
        dataclasses.replace(EvaluationConfig(), samples_per_prompt=0)


def test_open_and_closed_ends_are_told_apart():
    half_open = Range(gt=0, le=1)
    assert [x in half_open for x in (0, 1e-9, 1, 1.1)] == [False, True, True, False]
    assert [x in ZeroOr(Range(ge=2, le=9)) for x in (0, 1, 2, 9, 10)] == [
        True,
        False,
        True,
        True,
        False,
    ]
    assert True not in Range(ge=2, le=3) and float("nan") not in Range(ge=-1e9, le=1e9)
