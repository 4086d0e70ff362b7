"""Text of a file or of the command line, read by the type that its option declares."""

import math
import os
from pathlib import Path

import pytest

from megatron_ar3po.config.load import config_from_dict, load_config, to_yaml

TYPED = ("007", "12:30", "1e3", "0x10", "2024_01_05", "yes", "no", "null", "2024-01-05", "1_0")


def load_file(tmp_path: Path, text: str):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_config([path])


@pytest.mark.parametrize("text", [*TYPED, "~", ".inf", "a: b", "a # b", "${HOME}", "[x", "-", ""])
def test_a_word_for_an_option_that_is_text_stays_as_typed(text):
    assert load_config([], [f"run.name={text}"]).run.name == text


@pytest.mark.parametrize("text", [t for t in TYPED if t != "null"])
def test_so_does_the_text_of_a_file(tmp_path, text):
    assert load_file(tmp_path, f"run:\n  name: {text}\n").run.name == text
    assert load_file(tmp_path, f"run: {{allow_changed: [{text}]}}\n").run.allow_changed == [text]


@pytest.mark.parametrize("nothing", ["", "null", "~"])
def test_nothing_in_a_file_is_empty_text(tmp_path, nothing):
    assert load_file(tmp_path, f"run:\n  name: mine\n  dir: {nothing}\n").run.dir == ""


@pytest.mark.parametrize("source", TYPED)
def test_the_names_of_sources_are_text_and_stand_there_once(tmp_path, source):
    text = f"rewards: {{by_source: {{{source}: math, b: last_number}}}}"
    expected = {source: "math", "b": "last_number"}
    assert load_file(tmp_path, text).rewards.by_source == expected
    word = f"rewards.by_source={{{source}: math, b: last_number}}"
    assert load_config([], [word]).rewards.by_source == expected
    with pytest.raises(ValueError, match=f"{source} is there twice"):
        load_file(tmp_path, text.replace("b:", f"{source}:"))


def test_quotes_are_the_shells_or_yamls(tmp_path):
    for word in ("run.name='007'", 'run.name="007"'):
        assert load_config([], [word]).run.name == "007"
    assert load_file(tmp_path, "run: {name: 'null'}\n").run.name == "null"


def test_one_of_several_names_is_text_also_where_yaml_sees_a_truth(tmp_path):
    """`off` is a value of algorithm.importance_sampling, and false to YAML."""
    assert load_file(tmp_path, "algorithm: {importance_sampling: off}\n")
    assert load_config([], ["algorithm.importance_sampling=off"])
    with pytest.raises(ValueError, match=r"algorithm.kl_in=no: input should be 'loss' or 'reward'"):
        load_config([], ["algorithm.kl_in=no"])


@pytest.mark.parametrize(
    ("text", "number"), [("1e3", 1000), ("0x10", 16), ("1_000", 1000), ("010", 10), ("+7", 7)]
)
def test_a_whole_number_is_read_as_one_writes_it(tmp_path, text, number):
    assert load_config([], [f"run.num_steps={text}"]).run.num_steps == number
    assert load_file(tmp_path, f"run: {{num_steps: {text}}}\n").run.num_steps == number


@pytest.mark.parametrize("text", ["12:30", "1.5", "yes", "true", "two", "", "1e400", "0b12"])
def test_what_is_no_whole_number_is_refused_by_its_option(tmp_path, text):
    """YAML would read 12:30 as 750 seconds, and pydantic `true` as 1."""
    for load in (
        lambda: load_config([], [f"run.num_steps={text}"]),
        lambda: load_file(tmp_path, f"run: {{num_steps: {text}}}\n"),
    ):
        with pytest.raises(ValueError, match=r"^run\.num_steps=[^\n]*: [^\n]*$"):
            load()


def test_a_truth_is_no_number_wherever_it_comes_from():
    for option, value in (("seed", True), ("max_seconds", False)):
        with pytest.raises(ValueError, match=rf"^run\.{option}=\w+: it must be a number\.$"):
            config_from_dict({"run": {option: value}})
    with pytest.raises(ValueError, match=r"rollout.stage_plan=\[4, True\]: it must be a number"):
        config_from_dict({"rollout": {"stage_plan": [4, True]}})


def test_rates_are_read_in_all_their_spellings(tmp_path):
    for text in ("1e-4", "0.0001", "1E-4", ".1e-3"):
        loaded = load_file(tmp_path, f"actor: {{learning_rate: {text}}}\n")
        assert loaded.actor.learning_rate == 1e-4
        assert load_config([], [f"actor.learning_rate={text}"]).actor.learning_rate == 1e-4


def test_options_of_another_library_are_read_as_yaml(tmp_path):
    words = ["servers.sglang.a=1e-3", "servers.sglang.b=true", "servers.sglang.c.d=[1, x]"]
    read = {"a": 1e-3, "b": True, "c": {"d": [1, "x"]}}
    assert load_config([], words).servers.sglang == read
    text = "servers: {sglang: {a: 1e-3, b: true, c: {d: [1, x]}}}\n"
    assert load_file(tmp_path, text).servers.sglang == read


def test_a_file_may_refer_to_the_environment_to_itself_and_to_an_anchor(tmp_path, monkeypatch):
    monkeypatch.setenv("AR3PO_RATE", "3e-5")
    loaded = load_file(
        tmp_path,
        "run: &run {name: a, seed: 3}\n"
        "actor: {learning_rate: '${oc.env:AR3PO_RATE}'}\n"
        "data: {path: 'x/${run.name}.jsonl'}\n",
    )
    assert loaded.actor.learning_rate == 3e-5 and loaded.data.path == "x/a.jsonl"
    merged = load_file(tmp_path, "run:\n  <<: {name: a, seed: 3}\n  name: b\n")
    assert (merged.run.name, merged.run.seed) == ("b", 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run: {name: a, name: b}\n", "name is there twice"),
        ("run: {name: '${nowhere}'}\n", "nowhere"),
        ("rollout: {stage_plan: [4,4\n", "expected ',' or ']'"),
        ("run: {name: &a [*a]}\n", ""),
        ("a: 1\n---\nb: 2\n", "single document"),
        ("servers: {sglang: !!python/object:os.system {}}\n", "could not determine a constructor"),
        ("servers: {sglang: !!map x}\n", "expected a mapping node"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence_with_its_name(tmp_path, text, said):
    with pytest.raises(ValueError) as error:
        load_file(tmp_path, text)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert "config.yaml" in str(error.value) or "run.name" in str(error.value)


def test_bytes_that_are_no_text_are_one_sentence(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"run: {name: \xff}\n")
    with pytest.raises(ValueError, match=r"config.yaml is not readable YAML: [^\n]*$"):
        load_config([tmp_path / "config.yaml"])


def test_a_list_that_is_not_closed_says_how_one_is_written():
    with pytest.raises(ValueError) as error:
        load_config([], ["rollout.stage_plan=[4,4"])
    assert str(error.value) == (
        "rollout.stage_plan=[4,4 cannot be read (expected ',' or ']', but got '<stream end>'); write a list, as in "
        "rollout.stage_plan=[a, b]."
    )


def test_text_survives_the_resolved_config(tmp_path):
    for text in (*TYPED, "a: b", "é", "'"):
        config = load_config(
            [], [f"run.name={text}", f"run.allow_changed=['{text}']"][: 1 + (text != "'")]
        )
        assert load_file(tmp_path, to_yaml(config)) == config


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("run.name=a\tb", "holds a control character"),
        (os.fsdecode(b"run.name=\xff"), "holds bytes that are no UTF-8"),
        ("data.path=" + "x/" * 2100, "holds 4200 bytes"),
        ("model.path=" + "x" * 256, "a name of 256"),
        ("run.allow_changed=[" + "x" * 256 + "]", "a name of 256"),
    ],
)
def test_text_that_nothing_can_be_named_for_is_refused(word, said):
    with pytest.raises(ValueError) as error:
        load_config([], [word])
    assert str(error.value).startswith(word.partition("=")[0]) and said in str(error.value)
    str(error.value).encode()


def test_a_number_may_be_as_long_as_it_likes():
    with pytest.raises(ValueError) as error:
        load_config([], ["run.seed=" + "9" * 10_000])
    assert str(error.value).startswith("run.seed=999") and len(str(error.value)) < 300
    assert math.isfinite(load_config([], ["run.max_seconds=" + "0" * 5000]).run.max_seconds)
