"""The ledger of a run that was killed, as the next process finds it."""

from __future__ import annotations

import json
import logging

import pytest

from megatron_ar3po.rollout import ledger_resume
from megatron_ar3po.rollout.ledger_file import abandon_rows_after, ledger_rows, rows_of_run
from megatron_ar3po.rollout.ledger_resume import take_up_ledger
from megatron_ar3po.sampling_cost import NOTHING, Spent


def write(path, *rows):
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def prompt(step, position, responses=8, **fields):
    count = {"responses": responses, "response_tokens": 10 * responses}
    return {
        "kind": "prompt",
        "step": step,
        "position": position,
        "discarded": False,
        **count,
    } | fields


def intent(step, *positions):
    most = {"responses_max": 8 * len(positions), "response_tokens_max": 256 * len(positions)}
    return {"kind": "intent", "step": step, "positions": list(positions), **most}


def rows_of_kind(folder, kind):
    return [row for row in rows_of_run(folder) if row["kind"] == kind]


def test_a_step_that_was_cut_short_is_known_from_the_log_and_what_was_in_flight_is_bounded(
    tmp_path,
):
    """Checkpoint of step 1. Step 2 had ended on both replicas. In step 3 the first replica had ended, the second was
    sampling two prompts: of at most 16 responses 5 had come."""
    write(tmp_path / "dp00.jsonl", intent(1, 0), prompt(1, 0), intent(2, 0), prompt(2, 0))
    write(tmp_path / "dp00.jsonl", intent(3, 0), prompt(3, 0))
    write(tmp_path / "dp01.jsonl", intent(2, 1), prompt(2, 1), intent(3, 1, 2))
    logged = {2: Spent(responses=16, tokens=160), 3: Spent(responses=8 + 5, tokens=80 + 47)}
    total = Spent(responses=8, tokens=80)
    state = take_up_ledger(tmp_path, step=1, total=total, logged=logged)
    assert rows_of_kind(tmp_path, "cut_short") == [
        {
            "kind": "cut_short",
            "step": 3,
            "abandoned": True,
            "responses": 5,
            "response_tokens": 47,
            "in_flight_responses_max": 11,
            "in_flight_tokens_max": 512 - 47,
        }
    ]
    assert state.cost.total == Spent(responses=8 + 16 + 8 + 5, tokens=80 + 160 + 80 + 47)
    assert state.cost.classes["redone"].responses == 29
    assert [row["step"] for row in rows_of_run(tmp_path) if not row.get("abandoned")] == [1, 1]
    # a second process that dies before its first request has nothing to add
    assert take_up_ledger(tmp_path, step=1, total=total, logged=logged).cost == state.cost


def test_a_second_kill_adds_only_what_is_in_no_row_yet(tmp_path):
    """Killed in step 1 with 5 responses in the log. Done again with these 5, killed again when the log held 7. Then a
    process ends the step: 7 from the log, 1 drawn by itself."""
    ledger = tmp_path / "dp00.jsonl"
    write(ledger, intent(1, 0))
    first = take_up_ledger(
        tmp_path, step=0, total=NOTHING, logged={1: Spent(responses=5, tokens=50)}
    )
    write(ledger, intent(1, 0))
    second = take_up_ledger(
        tmp_path, step=0, total=NOTHING, logged={1: Spent(responses=7, tokens=70)}
    )
    assert (first.cost.total.responses, second.cost.total.responses) == (5, 7)
    write(ledger, intent(1, 0), prompt(1, 0, restored=7, restored_tokens=70))
    third = take_up_ledger(tmp_path, step=1, total=NOTHING, logged={})
    assert third.cost.total == Spent(responses=8, tokens=80)
    assert third.cost.classes["redone"] == NOTHING


def test_a_kill_while_a_run_is_taken_up_loses_nothing_of_what_was_in_flight(tmp_path, monkeypatch):
    """Two replicas were sampling 1 and 2 prompts: of at most 24 responses 5 had come, 19 may have been in flight. The
    next process is killed when it has marked the first replica's rows. The one after it counts the 5 once, and says no
    less than 19."""

    class Killed(BaseException):
        pass

    def die(path, *args):
        if path.name == "dp01.jsonl":
            raise Killed
        return abandon_rows_after(path, *args)

    write(tmp_path / "dp00.jsonl", intent(1, 0))
    write(tmp_path / "dp01.jsonl", intent(1, 1, 2))
    logged = {1: Spent(responses=5, tokens=50)}
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(ledger_resume, "abandon_rows_after", die)
        take_up_ledger(tmp_path, step=0, total=NOTHING, logged=logged)
    cost = take_up_ledger(tmp_path, step=0, total=NOTHING, logged=logged).cost
    assert cost.total == Spent(responses=5, tokens=50)
    assert cost.in_flight_max.responses >= 19 and cost.in_flight_max.tokens >= 3 * 256 - 50


def test_processes_of_one_name_are_told_apart_by_their_session(tmp_path):
    write(tmp_path / "dp00.jsonl", {"kind": "server", "step": 1, "server": "dp0.s0", "session": 0})
    assert take_up_ledger(tmp_path, step=1, total=NOTHING, logged={}).num_sessions == 1
    write(tmp_path / "dp00.jsonl", {"kind": "server", "step": 2, "server": "dp0.s0", "session": 1})
    assert take_up_ledger(tmp_path, step=2, total=NOTHING, logged={}).num_sessions == 2


def test_what_was_in_a_file_that_is_gone_stays_counted(tmp_path, caplog):
    """Of two replicas' files one is there. The checkpoint knows that there were 16 responses."""
    write(tmp_path / "dp01.jsonl", prompt(1, 1))
    total = Spent(responses=16, tokens=160)
    with caplog.at_level(logging.WARNING):
        state = take_up_ledger(tmp_path, step=1, total=total, logged={})
    assert "holds 8 responses of 80 tokens up to step 1, and the checkpoint says 16" in caplog.text
    assert state.cost.total == total
    assert state.cost.classes["unlisted"] == Spent(responses=8, tokens=80)
    caplog.clear()
    assert take_up_ledger(tmp_path, step=1, total=total, logged={}).cost == state.cost
    assert caplog.text == ""


def test_half_a_line_at_the_end_spoils_no_row_that_is_written_after_a_resume(tmp_path):
    path = tmp_path / "dp00.jsonl"
    write(path, prompt(1, 0))
    path.write_text(path.read_text() + '{"kind": "pro')
    take_up_ledger(tmp_path, step=1, total=NOTHING, logged={})
    write(path, prompt(2, 0))
    assert [row["step"] for row in ledger_rows(path)] == [1, 2]


def test_half_a_line_that_is_all_there_is_spoils_no_row_either(tmp_path):
    """Killed while it wrote its first."""
    path = tmp_path / "dp01.jsonl"
    path.write_text('{"kind": "int')
    take_up_ledger(tmp_path, step=0, total=NOTHING, logged={})
    write(path, prompt(1, 0), prompt(1, 1))
    assert [row["position"] for row in ledger_rows(path)] == [0, 1]
