import json

import pytest

from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.distributed.rank_watch import RankWatch
from megatron_ar3po.observability.metrics import Metrics
from megatron_ar3po.observability.row_file import drop_rows_after, read_rows
from megatron_ar3po.records import Max, Mean, Sum
from megatron_ar3po.sampling_cost import Spent, total_records
from megatron_ar3po.usage import LedgerError


class TwoRanks:
    """Stands for the ranks of two replicas that recorded the same, the second one's given here."""

    is_first = True

    def __init__(self, other: dict, *, is_leader: bool = True) -> None:
        self.layout = ParallelLayout()
        self.watch = RankWatch(rank=0, world_size=2)
        self.is_leader = is_leader
        self._other = other

    def gather(self, value):
        return [value, self._other]


def without_clocks(row: dict) -> dict:
    return {name: value for name, value in row.items() if not name.startswith("time/")}


def test_a_step_is_reduced_over_ranks_and_written_once(tmp_path):
    other = {"a": Mean(6, 1), "b": Sum(5), "c": Max(1)}
    metrics = Metrics(TwoRanks(other), tmp_path)  # type: ignore[arg-type]
    metrics.add({"a": Mean(3, 2)}, {"b": Sum(2), "c": Max(7)})
    assert without_clocks(metrics.flush(1)) == {"a": 4, "b": 7, "c": 7}
    (row,) = read_rows(tmp_path / "metrics.jsonl")
    assert without_clocks(row) == {"step": 1, "a": 4, "b": 7, "c": 7}


def test_ranks_that_hold_the_same_groups_as_their_leader_do_not_count_twice(tmp_path):
    metrics = Metrics(TwoRanks({}, is_leader=False), tmp_path)  # type: ignore[arg-type]
    metrics.add({"b": Sum(2)})
    assert metrics.flush(1) == {}


def test_totals_run_on_over_steps(tmp_path):
    metrics = Metrics(TwoRanks({}), tmp_path)  # type: ignore[arg-type]
    for step, count in ((1, 10), (2, 5)):
        metrics.add({"rollout/responses_generated": Sum(count)})
        row = metrics.flush(step)
    assert row["rollout/responses_total"] == 15


def test_what_comes_from_the_response_log_is_in_the_step_and_not_counted_anew(tmp_path):
    """A resumed run: 20 responses were generated before, 6 of them in a step that is done again. It takes 4 from the
    log and draws 2."""
    metrics = Metrics(TwoRanks({}), tmp_path)  # type: ignore[arg-type]
    metrics.totals["rollout/responses_total"] = 20
    metrics.totals["rollout/cost/redone_responses_total"] = 6
    metrics.add(
        {"rollout/responses_generated": Sum(6), "rollout/cost/restored_responses": Sum(4)},
        total_records(Spent(responses=22)),
    )
    assert without_clocks(metrics.flush(3)) == {
        "rollout/responses_generated": 6,
        "rollout/cost/restored_responses": 4,
        "rollout/responses_total": 22,
        "rollout/cost/redone_responses_total": 2,
    }


def test_what_is_done_again_passes_the_multiples_that_it_passed_before(tmp_path):
    """Of 20 responses 6 are of a step that a kill ended: it is done again from 14, and its 6, of which 4 come from the
    response log, pass 16, though the run had spent 20 before and has spent 22 then. The next 6, from 20, pass none."""
    metrics = Metrics(TwoRanks({}), tmp_path)  # type: ignore[arg-type]
    metrics.totals["rollout/responses_total"] = 20
    metrics.totals["rollout/cost/redone_responses_total"] = 6
    assert not metrics.responses_pass(16)
    metrics.add({"rollout/responses_generated": Sum(6), "rollout/cost/restored_responses": Sum(4)})
    assert metrics.responses_pass(16)
    metrics.flush(3)
    metrics.add({"rollout/responses_generated": Sum(6), "rollout/cost/restored_responses": Sum(0)})
    assert not metrics.responses_pass(16)  # 20 -> 26


def test_a_total_that_is_not_the_ledgers_ends_the_run_before_its_row_is_written(tmp_path):
    other = {"rollout/responses_generated": Sum(5), **total_records(Spent(responses=6))}
    metrics = Metrics(TwoRanks(other), tmp_path)  # type: ignore[arg-type]
    metrics.add({"rollout/responses_generated": Sum(4)}, total_records(Spent(responses=4)))
    with pytest.raises(LedgerError, match=r"responses_total is 9, .* RUN/ledger come to 10"):
        metrics.flush(1)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_nan_is_written_as_null(tmp_path):
    metrics = Metrics(TwoRanks({}), tmp_path)  # type: ignore[arg-type]
    metrics.add({"a": Mean(float("nan"))})
    metrics.flush(1)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["a"] is None


def test_a_small_rate_is_not_written_as_0_and_others_keep_their_eight_decimals(tmp_path):
    same = {"a/rate": Mean(4e-9), "a/tiny": Mean(1.23456789e-12), "a/share": Mean(0.123456789)}
    metrics = Metrics(TwoRanks(same), tmp_path)  # type: ignore[arg-type]
    metrics.add(
        {"a/rate": Mean(4e-9), "a/tiny": Mean(1.23456789e-12), "a/share": Mean(0.123456789)}
    )
    metrics.flush(1)
    (row,) = read_rows(tmp_path / "metrics.jsonl")
    assert (row["a/rate"], row["a/tiny"], row["a/share"]) == (4e-9, 1.23457e-12, 0.12345679)


def test_a_torn_last_line_is_left_out_and_rows_after_a_checkpoint_go(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert drop_rows_after(path, 2) == 1
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_response_may_hold_what_unicode_calls_a_line_end(tmp_path):
    path = tmp_path / "rollouts.jsonl"
    rows = [{"step": step, "text": "a\u2028b\u0085c"} for step in (1, 2)]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    assert read_rows(path) == rows
    assert drop_rows_after(path, 1) == 1
    assert path.read_text(encoding="utf-8") == lines[0]


def test_a_line_torn_within_a_character_is_left_out(tmp_path):
    path = tmp_path / "rollouts.jsonl"
    path.write_bytes(b'{"step": 1}\n{"text": "' + "\u00e9".encode()[:1])
    assert read_rows(path) == [{"step": 1}]


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nxx\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl:2 is not JSON"):
        read_rows(tmp_path / "metrics.jsonl")
