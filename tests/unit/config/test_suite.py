"""A suite file: what it says, what it takes from the run, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.suite import check_suites, read_suite, suite_sets
from megatron_ar3po.data.prompt_templates import load_template

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = sorted(p for p in (ROOT / "examples").rglob("*.yaml") if "\nsets:\n" in p.read_text())


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b.jsonl"):
        Path(name).write_text("{}\n")


def write_suite(text: str, name: str = "suite.yaml") -> Path:
    Path(name).write_text(text)
    return Path(name)


SUITE = """\
defaults: {samples: 4, temperature: 0.6, data: {prompt_field: question}}
sets:
  easy: {path: a.jsonl}
  hard:
    path: b.jsonl
    samples: 16
    max_response_tokens: 99
    stop_token_ids: [7]
    verifier: last_number
    data: {answer_field: gold}
"""


@pytest.mark.parametrize("suite", SHIPPED, ids=lambda path: path.stem)
def test_a_suite_of_the_examples_is_read_and_its_templates_are_there(suite, tmp_path, monkeypatch):
    """In a folder in which all of its prompts have been prepared."""
    monkeypatch.chdir(tmp_path)
    Path("examples").symlink_to(ROOT / "examples")
    for words in yaml.safe_load(suite.read_text())["sets"].values():
        Path(words["path"]).parent.mkdir(parents=True, exist_ok=True)
        Path(words["path"]).write_text("{}\n")
    sets = read_suite(suite, load_config([], []))
    assert sets
    for each in sets:
        assert load_template(each.config.data.template) is not None


def test_the_examples_have_three_suites():
    assert {path.name for path in SHIPPED} == {"math_suite.yaml", "suite.yaml", "svamp.yaml"}


def test_a_set_says_its_own_then_the_defaults_hold_then_the_run(prompts):
    words = ["evaluation.top_p=0.9", "rollout.max_response_tokens=50", "data.path=training.jsonl"]
    base = load_config([], [*words, "evaluation.path=a.jsonl", "evaluation.max_prompts=3"])
    easy, hard = read_suite(write_suite(SUITE), base)
    assert (easy.name, hard.name) == ("easy", "hard")
    first, second = easy.config, hard.config
    assert (first.data.path, second.data.path) == ("a.jsonl", "b.jsonl")
    assert [c.evaluation.samples_per_prompt for c in (first, second)] == [4, 16]
    assert [c.evaluation.temperature for c in (first, second)] == [0.6, 0.6]
    assert [c.evaluation.top_p for c in (first, second)] == [0.9, 0.9]
    assert [c.rollout.max_response_tokens for c in (first, second)] == [50, 99]
    assert [c.rollout.extra_stop_token_ids for c in (first, second)] == [[], [7]]
    assert [c.rewards.verifier for c in (first, second)] == ["math", "last_number"]
    assert [c.data.prompt_field for c in (first, second)] == ["question", "question"]
    assert second.data.answer_field == "gold"
    assert (first.evaluation.path, first.evaluation.max_prompts) == ("", 0)  # of held-out prompts


def test_a_verifier_of_a_set_goes_before_those_that_the_run_has_for_its_sources(prompts):
    base = load_config([], ["rewards.by_source={gsm8k: last_number}"])
    easy, hard = read_suite(write_suite(SUITE), base)
    assert easy.config.rewards.by_source == {"gsm8k": "last_number"}
    assert (hard.config.rewards.by_source, hard.config.rewards.verifier) == ({}, "last_number")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sets: {}", "must map names to benchmarks, one or more"),
        ("set: {a: {path: a.jsonl}}", "unknown key 'set'; a suite has `defaults` and `sets`"),
        ("sets: {a: {samples: 2}}", "sets.a has no path"),
        ("sets: {a: {path: c.jsonl}}", "sets.a: path=c.jsonl is no file"),
        ("sets: {a: {path: a.jsonl, sample: 2}}", "sets.a.sample is not known; the nearest is sam"),
        ("sets: {a: {path: a.jsonl, samples: 0}}", "evaluation.samples_per_prompt=0 is out of"),
        ("sets: {a: {path: a.jsonl, data: {x: 1}}}", "unknown option data.x=1"),
        ("sets: {a: {path: a.jsonl, data: 3}}", "sets.a.data=3 must be a section"),
        ("sets: {a b: {path: a.jsonl}}", "sets.a b: the name is one of a metric"),
        ("sets: {a: a.jsonl}", "sets.a='a.jsonl' must say what there is to it"),
        ("{defaults: {path: a.jsonl}, sets: {a: {}}}", "defaults.path would be that of all sets"),
    ],
)
def test_what_is_no_suite_is_refused_with_the_file_and_the_set(prompts, text, said):
    with pytest.raises(ValueError) as error:
        read_suite(write_suite(text), load_config([]))
    assert str(error.value).startswith("suite.yaml: ")
    assert said in str(error.value)


def test_a_run_names_each_set_once(prompts):
    write_suite(SUITE)
    write_suite("sets: {other: {path: a.jsonl}}", "other.yaml")
    config = load_config([], ["evaluation.suites=[suite.yaml, other.yaml]"])
    assert [found.name for found in suite_sets(config)] == ["easy", "hard", "other"]
    check_suites(config)
    twice = load_config([], ["evaluation.suites=[suite.yaml, suite.yaml]"])
    with pytest.raises(ValueError, match=r"evaluation\.suites=.* name the set easy twice"):
        check_suites(twice)
    with pytest.raises(ValueError, match=r"^evaluation\.suites: config file none\.yaml does not"):
        check_suites(load_config([], ["evaluation.suites=[none.yaml]"]))
