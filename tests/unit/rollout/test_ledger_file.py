import json

import pytest

from megatron_ar3po.rollout.ledger_file import abandon_rows_after, ledger_rows, rows_of_run


def test_what_a_resume_does_again_stays_as_cost(tmp_path):
    """Rows of steps 1 and 2, the intent of 3, and half a line: taken up from step 1."""
    path = tmp_path / "dp00.jsonl"
    rows = [
        {"kind": "prompt", "step": 1, "position": 0},
        {"kind": "evaluation", "policy_version": 1},
        {"kind": "prompt", "step": 2, "position": 0},
        {"kind": "intent", "step": 3},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "pro')
    assert abandon_rows_after(path, 1) == 2
    assert ledger_rows(path) == [
        *rows[:2],
        {**rows[2], "abandoned": True},
        {**rows[3], "abandoned": True},
    ]
    assert abandon_rows_after(path, 1) == 0  # once is enough
    (tmp_path / "dp01.jsonl").write_text('{"kind": "prompt", "step": 1, "position": 9}\n')
    assert [row.get("step", 0) for row in rows_of_run(tmp_path)] == [0, 1, 1, 2, 3]
    assert abandon_rows_after(tmp_path / "dp02.jsonl", 1) == 0


def test_an_evaluation_that_is_done_again_stays_as_cost(tmp_path):
    """After steps 0, 2 and 4; killed after step 5, the newest checkpoint is of step 3."""
    path = tmp_path / "dp00.jsonl"
    path.write_text("".join(f'{{"kind": "evaluation", "step": {step}}}\n' for step in (0, 2, 4)))
    assert abandon_rows_after(path, 3) == 1
    assert [row.get("abandoned", False) for row in ledger_rows(path)] == [False, False, True]
    assert abandon_rows_after(path, -1) == 2  # it starts anew, its first evaluation too


def test_an_evaluation_whose_row_has_no_step_is_of_another_try_when_a_run_starts_anew(tmp_path):
    """Earlier versions wrote none."""
    path = tmp_path / "dp00.jsonl"
    path.write_text('{"kind": "evaluation", "policy_version": 1}\n')
    assert abandon_rows_after(path, 0) == 0
    assert abandon_rows_after(path, -1) == 1


def test_a_prompt_that_was_lent_a_response_reads_as_rescued(tmp_path):
    """Written after the prompt's own row, and again for a step that a resume did anew, where nothing was lent."""
    path = tmp_path / "dp00.jsonl"
    prompt = {"kind": "prompt", "outcome": "all_wrong"}
    rows = [
        {**prompt, "step": 2, "position": 0},
        {**prompt, "step": 2, "position": 1},
        {"kind": "rescued", "step": 2, "positions": [1]},
        {**prompt, "step": 3, "position": 1},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcomes = [row["outcome"] for row in ledger_rows(path) if row["kind"] == "prompt"]
    assert outcomes == ["all_wrong", "rescued", "all_wrong"]
    assert abandon_rows_after(path, 1) == 4
    with path.open("a") as file:
        file.write(json.dumps({**prompt, "step": 2, "position": 1}) + "\n")
    again = [row["outcome"] for row in ledger_rows(path) if row["kind"] == "prompt"]
    assert again == ["all_wrong", "rescued", "all_wrong", "all_wrong"]


def test_a_row_that_was_changed_later_is_named_with_its_line(tmp_path):
    """8 responses become 9 on a disk that fails: JSON still, and no row that was written."""
    path = tmp_path / "dp00.jsonl"
    rows = [{"kind": "prompt", "step": step, "position": 0, "responses": 8} for step in (1, 2)]
    abandon_rows_after(path, 0, rows)
    assert ledger_rows(path) == rows
    path.write_text(
        path.read_text().replace(
            '"step": 2, "position": 0, "responses": 8', '"step": 2, "position": 0, "responses": 9'
        )
    )
    with pytest.raises(
        ValueError,
        match=r"dp00\.jsonl:2 is not what was written \(its checksum differs\);.* move it away",
    ):
        ledger_rows(path)


def test_rows_of_a_version_that_wrote_no_checksums_stay_as_they_are(tmp_path):
    path = tmp_path / "dp00.jsonl"
    old = b'{"kind": "prompt",  "step": 1, "position": 0, "responses": 8}\n'
    path.write_bytes(old + b'{"kind": "prompt", "step": 2, "position": 0, "responses": 4}\n{"kind"')
    assert abandon_rows_after(path, 1) == 1
    kept, marked = path.read_bytes().splitlines(keepends=True)
    assert kept == old and b'"xxh3"' in marked
    assert [row.get("abandoned", False) for row in ledger_rows(path)] == [False, True]
