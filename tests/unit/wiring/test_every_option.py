"""Whatever is written for whichever option: a run plan, or one sentence that names an option. Never a traceback.

Every option meets every value of a list, as a word of the command line and as a value of a YAML file; hypothesis draws
more. What loads goes through all that --dry-run does; prompts are read where the option decides about them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_ar3po.config.declared import dotted_options
from megatron_ar3po.config.load import config_from_dict, load_config, to_yaml
from megatron_ar3po.config.schema import Config
from megatron_ar3po.wiring.layout_checks import layout_of_job
from megatron_ar3po.wiring.start_checks import check_data, check_start

WORDS = [
    *(
        "",
        " ",
        "0",
        "1",
        "-1",
        "2",
        "3",
        "-3",
        "7",
        "1.5",
        "-0.5",
        "0.5",
        "1e-320",
        "1e400",
        "-1e400",
    ),
    *("nan", ".nan", "inf", "-.inf", "99999999999999999999", "-99999999999999999999", "2147483648"),
    *("true", "no", "null", "~", "12:30", "007", "0x10", "2024_01_05", "two words", "é", "\u2028"),
    *(
        "[]",
        "[1]",
        "[0]",
        "[-1]",
        "[1,x]",
        "[nan]",
        "[4,4",
        "[[1]]",
        "{}",
        "{a: 1}",
        "{a: {b: [c]}}",
        "{",
    ),
    *(
        "a.b",
        "a:b",
        "no.such:thing",
        "math:sin",
        "http://a:1",
        "[http://a:1]",
        "../..",
        "/",
        "/dev/null",
    ),
    *(
        "'",
        '"',
        "&a *a",
        "!!python/object:os.system x",
        "${x}",
        "%",
        "\t",
        "a\nb",
        "x" * 300,
        "x/" * 3000,
    ),
    "9" * 5000,
]
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, -(2**63), 10**400, 0.0, -0.5, 1e-320, 1e308),
    *(
        float("nan"),
        float("inf"),
        "",
        "text",
        "\0",
        "\ud800",
        b"bytes",
        [],
        [1],
        [None],
        [True],
        ["x"],
    ),
    *([[1]], [2**70], [float("nan")], {}, {"a": 1}, {1: 2}, {"a": {"b": None}}, ("a",), object),
]
# A file that is read again for every value takes a moment; these decide what is read.
READS_DATA = (
    "data.",
    "rollout.prompts_per_step",
    "rollout.extra_stop_token_ids",
    "evaluation.path",
)


@pytest.fixture(scope="module")
def words(tiny_task: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    few = tmp_path_factory.mktemp("data") / "few.jsonl"
    few.write_text("".join((tiny_task / "train.jsonl").open().readlines()[:20]))
    return [
        f"model.path={tiny_task}/model",
        f"data.path={few}",
        "data.max_prompt_tokens=16",
        "rollout.max_response_tokens=8",
        "rewards.verifier=last_number",
    ]


def plan_or_sentence(load: Any, option: str) -> str:
    """The sentence; "" where a run could begin."""
    try:
        config: Config = load()
        to_yaml(config)
        check_start(config, layout_of_job(config, world_size=config.actor.replica_size))
        if option.startswith(READS_DATA):
            check_data(config)
        return ""
    except ValueError as error:
        said = str(error)
    assert re.search(r"\b[a-z_]+\.[a-z_0-9]+\b|'.*' is not of the form", said), said
    assert len(said) < 2000 and "Traceback" not in said, said
    assert said.count("\n") < 14, said  # ten lines of a file are named, no more
    said.encode()  # it can be printed
    return said


def nest_option(words: list[str], option: str, value: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for word in words:
        name, _, text = word.partition("=")
        section, key = name.split(".")
        number = int(text) if text.isdigit() else text
        values.setdefault(section, {})[key] = number
    section, key = option.split(".")
    values.setdefault(section, {})[key] = value
    return values


@pytest.mark.parametrize("option", dotted_options())
def test_every_word_for_every_option_gives_a_plan_or_a_sentence(words, option):
    outcomes = [
        plan_or_sentence(lambda w=w: load_config([], [*words, f"{option}={w}"]), option)
        for w in WORDS
    ]
    assert any(outcomes), "an option that takes everything is checked by nobody"


@pytest.mark.parametrize("option", dotted_options())
def test_every_value_of_a_file_for_every_option_gives_a_plan_or_a_sentence(words, option):
    outcomes = [
        plan_or_sentence(lambda v=v: config_from_dict(nest_option(words, option, v)), option)
        for v in VALUES
    ]
    assert any(outcomes)


ANYTHING = st.one_of(
    st.integers(),
    st.integers(min_value=-5, max_value=70000),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.one_of(st.integers(), st.floats(), st.text(max_size=5)), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)


@settings(max_examples=300)
@given(option=st.sampled_from(dotted_options()), value=ANYTHING)
def test_what_hypothesis_draws_gives_a_plan_or_a_sentence(words, option, value):
    plan_or_sentence(lambda: load_config([], [*words, f"{option}={value}"]), option)
    plan_or_sentence(lambda: config_from_dict(nest_option(words, option, value)), option)
