"""Folders in every state: one sentence for what is not there, and what is there is read."""

import json
import shutil

import pytest
from fakes.planted_run import PlantedRun, learning

from megatron_ar3po.folder_owner import FolderOwner
from megatron_ar3po.reporting.report import summarize_run
from megatron_ar3po.reporting.run_data import read_run


@pytest.fixture
def run(tmp_path):
    return PlantedRun(skill=learning).write(tmp_path / "run")


def test_a_whole_run_needs_no_note(run):
    data = read_run(run)
    assert data.notes == ()
    assert (data.last_step, len(data.rows), data.checkpoints) == (20, 21, (20,))
    assert data.cost.total.responses == 1600
    assert summarize_run(data).responses_total == 1600


def test_what_is_no_run_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"gone is no folder; name a run's folder"):
        read_run(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"holds nothing that a run writes; name a run's folder"):
        read_run(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_has_only_begun(tmp_path):
    (tmp_path / "status").mkdir()
    data = read_run(tmp_path)
    assert data.notes == (
        "The run ended after step 0 without saying so: it was cut off, and what it had written is shown.",
        "There is no resolved_config.yaml, so the run's options are not known.",
        "There is no metrics.jsonl: the run has not finished a step, or it was lost.",
    )
    assert summarize_run(data).responses_total == 0


def test_a_run_that_was_cut_off_in_the_middle_of_its_lines(run):
    """Step 20 is half written in each file. 19 steps of 80 responses are whole, and so are 9 prompts of the last."""
    (run / "DONE").unlink()
    for name in ("metrics.jsonl", "rollouts.jsonl", "ledger/dp00.jsonl"):
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[:-40])
    data = read_run(run)
    assert data.notes == (
        "The run ended after step 19 of 20 without saying so: it was cut off, and what it had written is shown.",
    )
    assert data.last_step == 19
    assert data.cost.total.responses == 19 * 80 + 9 * 8


def test_a_run_that_is_going_on_says_so(run):
    (run / "DONE").unlink()
    owner = FolderOwner.claim(run)
    try:
        assert read_run(run).notes == (
            "The run is still going on (step 20 of 20): what follows is what it has written so far.",
        )
    finally:
        owner.release()
    (run / "STOPPED").touch()
    assert read_run(run).notes == (
        "The run was stopped after step 20 of 20; run.resume=true goes on from there.",
    )


def test_damaged_rows_are_counted_and_the_others_are_read(run):
    ledger = run / "ledger/dp00.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"responses": 8', b'"responses": 9')
    lines[5] = b"{oops\n"
    ledger.write_bytes(b"".join(lines))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"no": "step"}\n[1]\n')
    data = read_run(run)
    assert data.cost.total.responses == 1600 - 2 * 8
    assert data.notes == (
        "metrics.jsonl has a row of another make (KeyError: 'step'); it and 1 more of this file are left out.",
        "dp00.jsonl:4 is not what was written (its checksum differs); it and 1 more of this file are left out.",
    )


def test_a_folder_of_a_later_version_shows_what_can_be_read(run):
    """Its ledger has an outcome that is not known here: that prompt's cost counts, its fate is not drawn."""
    (run / "version.json").write_text('{"format": 99, "written_by": "9.0.0"}')
    row = {"kind": "prompt", "step": 20, "position": 99, "prompt_id": "a", "outcome": "guessed"}
    row |= {"responses": 8, "correct": 1, "response_tokens": 80}
    with (run / "ledger/dp00.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    data = read_run(run)
    assert len(data.columns) == 200
    assert data.cost.total.responses == 1608
    assert "has format 99 and was written by megatron_ar3po 9.0.0" in data.notes[0]
    assert data.notes[0].endswith("What this version can read of it is shown.")
    assert "ledger has a row of another make" in data.notes[1]


def test_a_config_that_cannot_be_read_is_said(run):
    (run / "resolved_config.yaml").write_text("{a: [")
    assert "resolved_config.yaml cannot be read" in read_run(run).notes[0]
    shutil.rmtree(run / "ledger")
    data = read_run(run)
    assert (len(data.columns), data.last_step) == (0, 20)


def test_what_a_resume_wrote_anew_counts_once(run):
    """Metrics of step 20 stand there twice; the ledger has its prompts twice, the first ones abandoned."""
    last = (run / "metrics.jsonl").read_text().splitlines()[-1]
    with (run / "metrics.jsonl").open("a") as file:
        file.write(last + "\n")
    with (run / "ledger/dp00.jsonl").open("a") as file:
        row = {"kind": "prompt", "step": 20, "position": 0, "prompt_id": "a", "abandoned": True}
        file.write(json.dumps({**row, "responses": 8, "response_tokens": 80}) + "\n")
    data = read_run(run)
    assert len(data.rows) == 21
    assert (len(data.columns), data.cost.classes["redone"].responses) == (200, 8)
