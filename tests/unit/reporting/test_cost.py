"""`ar3po cost RUN`, on folders that are written here."""

import doctest
import json
from pathlib import Path

import pytest

from megatron_ar3po.cli import main
from megatron_ar3po.config.load import load_config, to_yaml
from megatron_ar3po.file_digests import seal_row
from megatron_ar3po.reporting import cost, visits
from megatron_ar3po.reporting.cost import parse_plan, report_cost
from megatron_ar3po.reporting.cost_section import cost_section
from megatron_ar3po.reporting.run_data import read_run
from megatron_ar3po.run.folder_format import CONFIG_FILE, write_format


def test_the_worked_examples_hold():
    for module in (cost, visits):
        results = doctest.testmod(module)
        assert results.attempted and not results.failed


def write_run(folder: Path, rows, *words: str) -> Path:
    (folder / "ledger").mkdir(parents=True)
    config = load_config([], [*words, "rollout.prompts_per_step=2", "data.path=x", "model.path=y"])
    write_format(folder)
    (folder / CONFIG_FILE).write_text(to_yaml(config))
    lines = b"".join(b"%s\n" % seal_row(row) for row in rows)
    (folder / "ledger/dp00.jsonl").write_bytes(lines + b'{"kind": "prom')  # it was killed
    return folder


def row(step: int, prompt: str, correct: int, **more):
    return {"kind": "prompt", "step": step, "position": 0, "prompt_id": prompt, "responses": 8,
            "response_tokens": 80, "correct": correct, "stages": 1, "discarded": False, **more}  # fmt: skip


GRPO = "algorithm.name=grpo"


def test_what_was_spent_stands_beside_what_others_would_have_spent(tmp_path, capsys):
    """3 and 0 of 8: 4 + 4 x 5/70 and 8 for AR3PO(2x4). The one response that was cancelled is no plan's."""
    rows = [row(1, "a", 3), row(1, "b", 0), row(2, "a", 3, abandoned=True)]
    run = write_run(tmp_path / "run", rows, GRPO)
    assert main(["cost", str(run), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["spent"] == {"responses": 24, "tokens": 240}
    assert shown["classes"]["redone"]["responses"] == 8
    assert shown["graded"]["responses"] == 16
    found = {p["plan"]: p["low"] for p in shown["predictions"]}
    assert found["GRPO(8)"] == 16 and found["AR3PO(2x4)"] == pytest.approx(12.285714)
    assert list(found) == ["GRPO(8)", "DAPO(8)", "AR3PO(2x4)", "AR3PO(4x2)"]
    assert len(shown["assumptions"]) == 4


def test_the_table_says_it_in_words(tmp_path, capsys):
    run = write_run(tmp_path / "run", [row(1, "a", 3), row(1, "b", 0)], GRPO)
    assert main(["cost", str(run), "--plans", "grpo:8,grpo:16,ar3po:2x4"]) == 0
    said = capsys.readouterr().out
    assert "GRPO(8) *" in said and "GRPO(16)" in said and "exactly" in said
    assert "Assumed:" in said and "The policy of each step" in said


def test_bounds_are_called_bounds(tmp_path, capsys):
    rows = [row(1, "a", 4, responses=4, response_tokens=40), row(1, "b", 2, stages=2)]
    run = write_run(tmp_path / "run", rows)
    assert main(["cost", str(run), "--plans", "dapo:8"]) == 0
    assert "DAPO(8): from bound to bound; AR3PO(2x4) saw too few" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rollout.cancel_solved=true"], "no independent draws"),
        (["rollout.stage_rule=difficulty"], "does not say how large"),
    ],
)
def test_outcomes_that_tell_nothing_of_other_plans_are_refused(words, said, tmp_path, capsys):
    run = write_run(tmp_path / "run", [row(1, "a", 3)], *words)
    assert main(["cost", str(run)]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_folder_without_a_run_and_one_without_outcomes_are_told_apart(tmp_path, capsys):
    assert main(["cost", str(tmp_path)]) == 2
    assert "holds no resolved_config.yaml" in capsys.readouterr().err
    run = write_run(tmp_path / "run", [])
    assert main(["cost", str(run)]) == 2
    assert "no prompt with a verdict" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["grpo", "grpo:0", "dapo:2x4", "ar3po:0x4", "ppo:8"])
def test_a_plan_that_cannot_be_read_is_named(word):
    with pytest.raises(ValueError, match="is no plan; write grpo:8"):
        parse_plan(word)


def test_a_report_has_the_same_figures(tmp_path):
    """Of rows whose columns are read, not their texts; the step that was done again is no visit there either."""
    rows = [
        row(1, "a", 3, outcome="mixed"),
        row(1, "b", 0, position=1, outcome="all_wrong"),
        row(2, "b", 8, outcome="all_correct"),
        row(2, "a", 0, position=1, outcome="verifier_error", ungraded=8, ungraded_tokens=80),
    ]
    run = write_run(tmp_path / "run", rows, GRPO)
    report = report_cost(run)
    section = cost_section(read_run(run))
    shown = json.loads(section.figures[0])["data"][0]
    assert shown["x"] == [p.plan for p in report.predictions]
    assert shown["y"] == pytest.approx([p.low for p in report.predictions])
    assert "GRPO(8) (this run&#x27;s plan)" in section.markup


def test_a_report_of_a_run_that_tells_nothing_of_other_plans_has_no_such_section(tmp_path):
    rows = [row(1, "a", 3, outcome="mixed")]
    assert (
        cost_section(read_run(write_run(tmp_path / "a", rows, "rollout.cancel_solved=true")))
        is None
    )
    assert cost_section(read_run(write_run(tmp_path / "b", [], GRPO))) is None


def test_a_prompt_whose_stages_are_not_whole_is_left_out_of_the_report_too(tmp_path):
    """Of 8 responses in two stages one has no verdict: the 7 are not 4 and 3 for certain."""
    rows = [
        row(1, "a", 0, stages=2, outcome="all_wrong"),
        row(1, "b", 3, stages=2, position=1, outcome="mixed", ungraded=1, ungraded_tokens=10),
    ]
    run = write_run(tmp_path / "run", rows)
    report = report_cost(run)
    assert report.left_out == 1
    shown = json.loads(cost_section(read_run(run)).figures[0])["data"][0]
    assert shown["y"] == pytest.approx([(p.low + p.high) / 2 for p in report.predictions])
