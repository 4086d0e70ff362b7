"""Which facts a run has, and which changes of files they tell. What becomes of a change is in
tests/unit/run/test_resume_comparison.py."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import cast

import pytest
from fakes.ranks import OneRank

from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.schema import Config
from megatron_ar3po.data.dataset import load_prompts
from megatron_ar3po.data.tokenizer import load_tokenizer
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.rewards.prompt_grading import PromptGrading
from megatron_ar3po.run.facts import RunFacts, read_facts, write_facts
from megatron_ar3po.run.upgrade import upgrade_run
from megatron_ar3po.wiring.model_identity import digest_weights
from megatron_ar3po.wiring.prompts_and_verifier import load_prompts_and_verifier
from megatron_ar3po.wiring.regrader import Regrader
from megatron_ar3po.wiring.run_facts import allows_other_prompts, compare_start, find_facts

MODEL, PROMPTS = Path("model"), Path("prompts.jsonl")


@pytest.fixture
def task(old_run: Path) -> Path:
    """The folder of a real run, beside its model and its prompts, which lie in the current folder."""
    upgrade_run(old_run)
    return old_run


def config_of(*words: str) -> Config:
    return load_config(["run/resolved_config.yaml"], words)


def facts_of(*words: str, layout: ParallelLayout | None = None) -> dict[str, str]:
    found = find_facts(config_of(*words), layout or ParallelLayout())
    assert len({fact.name for fact in found}) == len(found)
    return {fact.name: fact.value for fact in found}


def differing(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in {**before, **after} if before.get(name) != after.get(name)}


def test_the_facts_of_a_run(task):
    facts = facts_of()
    assert facts["data.path (prompts)"].startswith("6 with checksum ")
    assert facts["rewards.verifier (version)"] == "last_number-1:grade"
    assert facts["layout (replicas)"] == "1"
    assert {"packages (sglang)", "packages (megatron_ar3po)"} <= set(facts)
    of_model = {name.partition(" ")[2] for name in facts if name.startswith("model.path")}
    assert {"(config.json)", "(tokenizer)", "(weights)"} <= of_model
    assert differing(facts, facts_of()) == set()


def rewrite(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


def change_json(path: Path, **fields: object) -> None:
    rewrite(path, lambda text: json.dumps({**json.loads(text), **fields}))


def flip_a_byte_of_every_page(path: Path) -> None:
    """As other weights would."""
    content = bytearray(path.read_bytes())
    content[2000::4000] = bytes(255 - byte for byte in content[2000::4000])
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda: rewrite(PROMPTS, lambda t: t.partition("\n")[2]), "data.path (prompts)"),
        (lambda: change_json(MODEL / "config.json", rope_theta=7.0), "model.path (config.json)"),
        (lambda: rewrite(MODEL / "tokenizer.json", lambda t: t + " "), None),
        (lambda: change_json(MODEL / "tokenizer.json", added_tokens=[]), "model.path (tokenizer)"),
        (
            lambda: (MODEL / "chat_template.jinja").write_text("{{ messages }}"),
            "model.path (chat template)",
        ),
        (
            lambda: flip_a_byte_of_every_page(MODEL / "model.safetensors"),
            "model.path (weights)",
        ),
        (lambda: change_json(MODEL / "config.json", transformers_version="9"), None),
        (lambda: rewrite(PROMPTS, lambda t: "".join(reversed(t.splitlines(True)))), None),
    ],
)
def test_a_changed_file_changes_its_own_fact_and_no_other(task, change, fact):
    """Neither the order of prompts that are shuffled anyway nor who wrote a file is a change."""
    words = ("data.shuffle=true",)
    before = facts_of(*words)
    change()
    told = differing(before, facts_of(*words))
    assert {name for name in told if not name.startswith("evaluation")} == ({fact} - {None})


def test_the_shares_of_a_mixture_are_a_fact_of_it(task):
    """Weights in proportion are the same order of prompts; others are refused in a sentence that names them."""
    Path("more.jsonl").write_bytes(PROMPTS.read_bytes())

    def find_mixed(one: int, other: int) -> dict[str, str]:
        weights = f"{{{PROMPTS}: {one}, more.jsonl: {other}}}"
        return facts_of("data.path=", f"data.mixture={weights}")

    first = find_mixed(1, 3)
    assert first["data.mixture (shares)"] == "0.25 0.75"
    assert differing(first, find_mixed(2, 6)) == set()
    assert differing(first, find_mixed(1, 1)) == {"data.mixture (shares)"}


def test_a_copy_of_a_model_is_the_same_model(task):
    before = facts_of()
    shutil.copytree(MODEL, "elsewhere/copy")
    assert differing(before, facts_of("model.path=elsewhere/copy")) == set()


def test_samples_of_a_file_tell_weights_of_one_shape_apart(tmp_path):
    """A small difference in each weight, as after some training; and a file of another length."""
    one, two = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    weights = bytes(range(251)) * 4000
    one.write_bytes(weights)
    two.write_bytes(weights)
    digest = digest_weights([one])
    assert digest != digest_weights([two]) != digest_weights([one, two])  # names count
    for changed in (bytes(byte ^ 1 for byte in weights), weights[:-1]):
        one.write_bytes(changed)
        assert digest_weights([one]) != digest


def test_a_users_own_code_and_the_end_of_a_decay_are_facts_too(task, monkeypatch):
    Path("mine.py").write_text("def pick(candidates, request):\n    return candidates[0]\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    words = ("reuse.pick=mine:pick", "actor.lr_decay=linear", "run.num_steps=10")
    before = facts_of(*words)
    assert before["actor.lr_decay (optimizer steps)"] == "10"
    rewrite(Path("mine.py"), lambda text: text.replace("[0]", "[-1]"))
    after = facts_of(*words, "run.num_steps=20", layout=ParallelLayout(world_size=2))
    assert differing(before, after) == {
        "reuse.pick (code)",
        "actor.lr_decay (optimizer steps)",
        "layout (replicas)",
    }


def test_a_start_says_what_it_changes_a_line_each_and_writes_nothing(task, caplog):
    config = config_of("run.resume=true")
    found = compare_start(config, cast("Ranks", OneRank()))
    assert "run has no run_facts.json" in caplog.text and found.changes == ()
    write_facts(task, found.facts)
    caplog.clear()
    warmer = replace(config, actor=replace(config.actor, learning_rate=0.5))
    before = read_facts(task)
    with caplog.at_level(logging.WARNING):
        (change,) = compare_start(warmer, cast("Ranks", OneRank())).changes
    assert [record.getMessage() for record in caplog.records] == [
        f"changed at this resume: {change.describe()}"
    ]
    assert read_facts(task) == before


@pytest.mark.parametrize(
    ("allowed", "prompts_too"),
    [
        ("run.seed", True),
        ("data.path", True),
        ("rewards.tolerance", True),
        ("model.path", True),
        ("rollout.temperature", False),
    ],
)
def test_which_allowed_changes_may_bring_other_prompts(task, allowed, prompts_too):
    assert allows_other_prompts(config_of(f"run.allow_changed=[{allowed}]")) == prompts_too


@pytest.mark.parametrize(
    ("change", "words", "sentence"),
    [
        (lambda: None, ("rollout.temperature=0.5",), "rollout.temperature was 1.0 and is 0.5 now"),
        (lambda: None, ("algorithm.name=grpo",), "algorithm.name was ar3po and is grpo now"),
        (
            lambda: None,
            ("rewards.verifier=math",),
            "rewards.verifier was last_number and is math now",
        ),
        (
            lambda: rewrite(PROMPTS, lambda t: t.partition("\n")[2]),
            (),
            "data.path (prompts) was 6 with checksum ",
        ),
        (
            lambda: change_json(MODEL / "config.json", rope_theta=7.0),
            (),
            "model.path (config.json) was ",
        ),
        (
            lambda: flip_a_byte_of_every_page(MODEL / "model.safetensors"),
            (),
            "model.path (weights) was ",
        ),
    ],
    ids=["temperature", "algorithm", "verifier", "data", "model", "weights"],
)
def test_another_run_is_refused_and_nothing_is_written(task, change, words, sentence):
    write_facts(task, compare_start(config_of("run.resume=true"), cast("Ranks", OneRank())).facts)
    change()
    before = {path: path.read_bytes() for path in task.rglob("*") if path.is_file()}
    with pytest.raises(ValueError) as error:
        compare_start(config_of("run.resume=true", *words), cast("Ranks", OneRank()))
    assert f"  {sentence}" in str(error.value)
    assert {path: path.read_bytes() for path in task.rglob("*") if path.is_file()} == before


def test_prompts_are_graded_anew_with_the_date_of_the_runs_first_start(task):
    """A chat template that writes the date: the prompts of `ar3po reuse regrade` are those the store knows."""
    (MODEL / "chat_template.jinja").write_text(
        "{{ strftime_now('%y') }}{{ messages[0].content.replace('xx', '') }}"
    )
    rewrite(
        task / "resolved_config.yaml", lambda t: t.replace("_template: false", "_template: true")
    )
    first_start = datetime(2001, 1, 1)
    write_facts(task, RunFacts(rendered_at=first_start))
    config = config_of()
    assert config.data.apply_chat_template
    known = load_prompts(
        PROMPTS,
        load_tokenizer(MODEL),
        config.data,
        grading=PromptGrading(config.rewards),
        rendered_at=first_start,
    )
    assert known[0].text == "013+8+4="
    with ExitStack() as stack:
        regrader = Regrader(task / "resolved_config.yaml", stack)
        assert [regrader.current_prompt(prompt) for prompt in known] == list(known)


def test_each_verifier_of_a_source_is_a_fact(task):
    words = ["rewards.by_source={a: last_number, b: {verifier: math, tolerance: 0.5}}"]
    facts = facts_of(*words)
    assert facts["rewards.by_source (version for 'a')"] == "last_number-1:grade"
    assert facts["rewards.by_source (version for 'b')"].startswith("math-")
    assert "rewards.verifier (version)" not in facts
    more = facts_of("rewards.by_source={a: last_number, b: math}")
    assert differing(facts, more) == {"rewards.by_source (version for 'b')"}
    rewrite(PROMPTS, lambda t: t.replace('"prompt"', '"source": "new", "prompt"'))
    assert "data.path (prompts)" in differing(facts, facts_of(*words))  # graded by another one
    assert differing(facts_of(), facts_of("rewards.tolerance_field=slack")) == set()


def test_all_ranks_render_with_the_date_that_rank_0_has_found(task):
    """Around midnight their clocks differ: the others take rank 0's, and ask their own for nothing."""
    first = compare_start(config_of(), cast("Ranks", OneRank()))

    class SecondRank(OneRank):
        def run_on_first(self, work):
            return first

    second = compare_start(config_of(), cast("Ranks", SecondRank()))
    assert second.facts.rendered_at == first.facts.rendered_at


def test_the_first_prompts_of_a_run_stand_in_its_log(task, caplog):
    with caplog.at_level(logging.INFO), ExitStack() as stack:
        ranks = cast("Ranks", OneRank())
        inputs = load_prompts_and_verifier(config_of(), ranks, stack, datetime.now())
    said = [r.getMessage() for r in caplog.records if ": prompt " in r.getMessage()]
    assert len(inputs.training) == 6 and len(said) == 3
    assert f"    | {inputs.training[0].text}" in said[0]
