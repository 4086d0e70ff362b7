"""What a resume may change: the run's own config and facts against those of now. How facts are found is in
tests/unit/wiring/test_run_facts.py; that a refusal comes before anything else, in tests/e2e/test_refused_resume.py."""

from __future__ import annotations

import doctest
import json
from datetime import datetime
from pathlib import Path

import pytest

from megatron_ar3po.config.at_resume import AtResume
from megatron_ar3po.config.load import load_config, to_yaml
from megatron_ar3po.config.schema import Config
from megatron_ar3po.run import facts as facts_module
from megatron_ar3po.run import resume_comparison
from megatron_ar3po.run.durable import add_checksum
from megatron_ar3po.run.facts import Fact, RunFacts, read_facts, read_rendered_at, write_facts
from megatron_ar3po.run.resume_comparison import (
    Comparison,
    add_changes,
    compare_options,
    compare_with_run,
)

FIRST_START = datetime(2026, 11, 27, 23, 59, 58)
NOW = datetime(2026, 11, 28, 8, 30)
PROMPTS = Fact("data.path", "prompts", "512 with checksum aa", AtResume.FIXED)
SGLANG = Fact("packages", "sglang", "0.5.6", AtResume.WARN)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder as its first start left it."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "resolved_config.yaml").write_text(add_checksum(to_yaml(config_of(folder))))
    facts = RunFacts(
        rendered_at=FIRST_START, values={fact.name: fact.value for fact in (PROMPTS, SGLANG)}
    )
    write_facts(folder, facts)
    return folder


def config_of(folder: Path, *words: str) -> Config:
    return load_config([], [f"run.dir={folder}", "run.seed=3", *words])


def resume(folder: Path, *words: str, facts: tuple[Fact, ...] = (PROMPTS, SGLANG)) -> Comparison:
    return compare_with_run(config_of(folder, "run.resume=true", *words), facts, NOW)


def refusal_of(folder: Path, *words: str, facts: tuple[Fact, ...] = (PROMPTS, SGLANG)) -> list[str]:
    before = contents(folder)
    with pytest.raises(ValueError) as error:
        resume(folder, *words, facts=facts)
    assert contents(folder) == before
    return str(error.value).splitlines()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_config_changes_nothing(run):
    same = resume(run)
    assert same.changes == () and same.note == ""


def test_another_seed_is_refused_with_both_values_and_the_ways_out(run):
    assert refusal_of(run, "run.seed=9") == [
        f"run.dir={run} cannot go on with this config: two unlike runs would be one curve.",
        "  run.seed was 3 and is 9 now",
        f"Set back what was ({run}/resolved_config.yaml); or start a new run (run.resume=false, another run.name or "
        f"run.dir), from this one's policy with model.path={run}/hf (checkpoint.export_hf=true writes it); or, if one "
        "curve is what you want, add run.allow_changed=[run.seed].",
    ]


def test_all_that_is_fixed_stands_in_one_refusal(run):
    """algorithm.name brings its preset with it."""
    other = PROMPTS._replace(value="511 with checksum bb")
    words = ["algorithm.name=grpo", "rollout.temperature=0.7", "rewards.verifier=last_number"]
    words += ["actor.learning_rate=1.0e-5", "run.num_steps=7"]
    lines = refusal_of(run, *words, facts=(other,))
    assert lines[1:-1] == [
        "  rewards.verifier was math and is last_number now",
        "  rollout.num_stages was 2 and is 1 now",
        "  rollout.responses_per_stage was 4 and is 8 now",
        "  rollout.temperature was 1.0 and is 0.7 now",
        "  reuse.enabled was true and is false now",
        "  algorithm.name was ar3po and is grpo now",
        "  data.path (prompts) was 512 with checksum aa and is 511 with checksum bb now",
    ]
    assert "run.allow_changed=[rewards.verifier,rollout.num_stages," in lines[-1]


def test_what_a_file_is_called_is_told_beside_what_it_holds(run):
    other = PROMPTS._replace(value="511 with checksum bb")
    assert refusal_of(run, "data.path=new.jsonl", facts=(other,))[1:-1] == [
        "  data.path was empty and is new.jsonl now",
        "  data.path (prompts) was 512 with checksum aa and is 511 with checksum bb now",
    ]


def test_why_a_fact_has_changed_is_told_beside_it(run):
    """A verifier of one's own is given all of rewards.*, so its version changes with each of them."""
    before = Fact("rewards.verifier", "version", "mine:make:aa", AtResume.FIXED)
    write_facts(run, RunFacts(values={before.name: before.value}))
    words = ["rewards.num_workers=8", "run.num_steps=7"]
    lines = refusal_of(run, *words, facts=(before._replace(value="mine:make:bb"),))
    assert lines[1:-1] == [
        "  rewards.num_workers was 1 and is 8 now",
        "  rewards.verifier (version) was mine:make:aa and is mine:make:bb now",
    ]


def test_a_file_that_was_moved_is_the_same_file(run):
    (moved,) = resume(run, "data.path=elsewhere/train.jsonl").changes
    assert moved.describe() == "data.path was empty and is elsewhere/train.jsonl now"


def test_what_is_warned_of_may_change_with_a_line_each(run):
    words = ["actor.learning_rate=1.0e-5", "actor.tensor_parallel_size=2"]
    words += ["servers.sglang.mem_fraction_static=0.7"]
    changed = resume(run, *words, facts=(PROMPTS, SGLANG._replace(value="0.5.7"))).changes
    assert [change.describe() for change in changed] == [
        "servers.sglang.mem_fraction_static was unset and is 0.7 now",
        "actor.tensor_parallel_size was 1 and is 2 now",
        "actor.learning_rate was 1.0e-06 and is 1.0e-05 now",
        "packages (sglang) was 0.5.6 and is 0.5.7 now",
    ]


def test_what_is_free_may_change_without_a_word(run):
    words = ["run.num_steps=9", "checkpoint.keep_last=5", "evaluation.every_steps=2"]
    words += ["observability.log_level=DEBUG", "servers.port=31000", "run.stall_report_s=0"]
    assert resume(run, *words).changes == ()


def test_another_length_is_told_where_the_learning_rate_falls_over_it(run):
    falling = config_of(run, "actor.lr_decay=linear")
    (run / "resolved_config.yaml").write_text(add_checksum(to_yaml(falling)))
    (change,) = resume(run, "actor.lr_decay=linear", "run.num_steps=9").changes
    assert change.describe() == "run.num_steps was 100 and is 9 now"
    assert change.at_resume is AtResume.WARN


def test_a_fixed_one_that_is_allowed_is_warned_of(run):
    words = ["rollout.max_response_tokens=512", "actor.megatron.attention_dropout=0.1"]
    allowed = "run.allow_changed=[rollout.max_response_tokens,actor.megatron]"
    described = [change.describe() for change in resume(run, *words, allowed).changes]
    assert described == [
        "rollout.max_response_tokens was 256 and is 512 now",
        "actor.megatron.attention_dropout was unset and is 0.1 now",
    ]
    lines = refusal_of(run, *words, "run.allow_changed=[rollout.max_response_tokens]")
    assert lines[1:-1] == ["  actor.megatron.attention_dropout was unset and is 0.1 now"]
    data = resume(run, "run.allow_changed=[data.path]", facts=(PROMPTS._replace(value="2"),))
    assert [change.name for change in data.changes] == ["data.path (prompts)"]


def test_an_option_that_this_version_no_longer_knows_is_warned_of():
    old = {"run": {"name": "run", "gone": 1}}
    (gone,) = compare_options(old, Config())
    assert (gone.name, gone.old, gone.new, gone.at_resume) == ("run.gone", 1, None, AtResume.WARN)


def test_an_option_that_came_later_had_its_default(run):
    text = (run / "resolved_config.yaml").read_text()
    assert "  temperature: 1.0\n" in text
    older = text.rpartition("# xxh3")[0].replace("  temperature: 1.0\n", "")
    (run / "resolved_config.yaml").write_text(add_checksum(older))
    assert resume(run).changes == ()
    assert "  rollout.temperature was 1.0 and is 0.5 now" in refusal_of(
        run, "rollout.temperature=0.5"
    )


def test_the_time_of_the_first_start_stays_the_runs(run):
    assert resume(run).facts.rendered_at == FIRST_START == read_rendered_at(run)
    new = compare_with_run(config_of(run, "run.dir=other"), [PROMPTS], NOW)
    assert new == Comparison(RunFacts(rendered_at=NOW, values={PROMPTS.name: PROMPTS.value}))


def test_a_run_of_a_version_that_wrote_no_facts_is_compared_by_its_options(run):
    (run / "run_facts.json").unlink()
    found = resume(run, facts=(PROMPTS._replace(value="511"),))
    assert found.changes == () and found.facts.rendered_at == NOW
    assert found.facts.values == {PROMPTS.name: "511"}
    assert found.note == (
        f"{run} has no run_facts.json: whether the files of data.path, evaluation.path and model.path hold what they "
        "held is not known"
    )
    assert refusal_of(run, "run.seed=9")[1] == "  run.seed was 3 and is 9 now"


def test_a_run_without_its_config_is_compared_by_its_facts(run):
    (run / "resolved_config.yaml").unlink()
    assert resume(run, "run.seed=9").note == (
        f"{run} has no resolved_config.yaml: whether options are what they were is not known"
    )
    assert "  data.path (prompts) was 512 with checksum aa and is 511 now" in refusal_of(
        run, facts=(PROMPTS._replace(value="511"),)
    )


def test_a_resume_in_a_folder_without_a_run_starts_one(tmp_path):
    for folder in (tmp_path, tmp_path / "new"):
        found = resume(folder)
        assert (found.changes, found.note, found.facts.rendered_at) == ((), "", NOW)


def test_options_that_were_edited_in_place_or_changed_by_the_disk_are_no_ground_to_compare_on(run):
    """Else a config that is this very file would be compared with itself."""
    path = run / "resolved_config.yaml"
    path.write_text(path.read_text().replace("temperature: 1.0", "temperature: 1.5"))
    (line,) = refusal_of(run)
    assert line.startswith(f"{path} is damaged (its checksum differs: it was edited, or")


@pytest.mark.parametrize("damage", [b"", b"run: [", b"\xff\xfe", b"just words", b"run: 3\n"])
def test_a_damaged_config_is_named(run, damage):
    (run / "resolved_config.yaml").write_bytes(damage)
    (line,) = refusal_of(run)
    assert line.startswith(f"{run}/resolved_config.yaml is damaged (")


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied"])
def test_damaged_facts_are_named(run, damage):
    path = run / "run_facts.json"
    text = path.read_text()
    assert '"512 with' in text
    damaged = {"flipped": text.replace('"512 with', '"513 with'), "cut": text[:90], "emptied": ""}
    path.write_text(damaged[damage])
    (line,) = refusal_of(run)
    assert line.startswith(f"{path} is damaged (") and "remove it" in line


def test_facts_come_back_as_they_were_written(tmp_path):
    assert read_facts(tmp_path) is None
    kept = {"after_step": 4, "option": "actor.learning_rate", "old": 1e-6, "new": 1e-5}
    facts = RunFacts(rendered_at=FIRST_START, values={"data.path (prompts)": "é"}, changes=(kept,))
    write_facts(tmp_path, facts)
    assert read_facts(tmp_path) == facts
    assert json.loads((tmp_path / "run_facts.json").read_text())["changes"] == [kept]


def test_changes_are_kept_with_the_step_after_which_they_hold_and_once(run):
    found = resume(run, "actor.learning_rate=1.0e-5")
    facts = add_changes(found.facts, found.changes, step=4)
    facts = add_changes(facts, found.changes, step=4)  # killed before the next checkpoint
    facts = add_changes(facts, resume(run, "actor.learning_rate=2.0e-5").changes, step=6)
    kept = [(c["after_step"], c["option"], c["old"], c["new"]) for c in facts.changes]
    assert kept == [
        (4, "actor.learning_rate", 1e-6, 1e-5),
        (6, "actor.learning_rate", 1e-6, 2e-5),
    ]


@pytest.mark.parametrize("module", [facts_module, resume_comparison])
def test_the_examples_of_the_docstrings_hold(module):
    results = doctest.testmod(module)
    assert results.failed == 0 and results.attempted >= 1
