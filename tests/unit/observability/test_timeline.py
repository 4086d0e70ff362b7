"""Where the seconds go: spans, moments in which many things are under way, and the split that a report shows."""

import asyncio
import io

import pytest
from rich.console import Console

from megatron_ar3po.distributed.rank_watch import RankWatch
from megatron_ar3po.observability.metrics import Metrics
from megatron_ar3po.observability.row_file import read_rows
from megatron_ar3po.observability.time_split import split_of, table_of
from megatron_ar3po.observability.timeline import Timeline


class Clock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_phase_of_the_loop_has_its_short_name_and_what_is_inside_is_named_after_it(clock):
    timeline = Timeline(clock=clock)
    with timeline.span("step"):
        with timeline.span("rollout"):
            clock.pass_(2)
            with timeline.span("ledger"):
                clock.pass_(3)
        with timeline.span("turns"):
            clock.pass_(4)
    assert timeline.take() == {
        "step": 9,
        "rollout": 5,
        "rollout/ledger": 3,
        "step/turns": 4,
        "wall": 9,
    }


def test_a_phase_where_it_does_not_usually_stand_is_not_taken_for_the_usual_one(clock):
    """The weights that a start publishes are no part of a step."""
    timeline = Timeline(clock=clock)
    with timeline.span("start"), timeline.span("publish"):
        clock.pass_(1)
    with timeline.span("step"), timeline.span("publish"):
        clock.pass_(7)
    taken = timeline.take()
    assert (taken["start/publish"], taken["publish"]) == (1, 7)


def test_every_second_is_in_one_row_those_before_the_first_line_of_the_program_too(clock):
    """A process of 30 s age: its first row knows of them. What goes on when a row is taken is in the next one."""
    timeline = Timeline(age_s=30, clock=clock)
    clock.pass_(2)
    assert timeline.take()["wall"] == 32
    with timeline.span("close"):
        clock.pass_(1)
        assert timeline.take() == {"wall": 1}
        clock.pass_(1)
    assert timeline.take() == {"close": 2, "wall": 1}


def test_a_moment_of_sampling_is_given_to_one_thing(clock):
    """Two requests of 4 s, the second sent 1 s later; the verdict of the first takes until the second is back, and
    another second alone. The server says that it took 3 s for each: it was at work from 1 to 5, which leaves 1 s of
    the 5 that requests were under way. Then nothing is, for 2 s."""
    timeline = Timeline(clock=clock)
    with timeline.span("rollout"), timeline.sampling():
        with timeline.during("http"):
            clock.pass_(1)
            with timeline.during("http"):
                clock.pass_(3)
                timeline.record_service(3)
            with timeline.during("verifier"):
                clock.pass_(1)
                timeline.record_service(3)
        with timeline.during("verifier"):
            clock.pass_(1)
        clock.pass_(2)
    assert timeline.take() == {
        "rollout": 8,
        "rollout/http": 1,
        "rollout/server": 4,
        "rollout/verifier": 1,
        "rollout/slots": 0,
        "rollout/client": 2,
        "wall": 8,
    }


def test_what_is_given_up_under_way_is_not_under_way_in_the_next_rollout(clock):
    timeline = Timeline(clock=clock)
    with pytest.raises(asyncio.CancelledError), timeline.sampling(), timeline.during("slots"):
        raise asyncio.CancelledError
    timeline.take()
    with timeline.sampling():
        clock.pass_(1)
    taken = timeline.take()
    assert (taken["slots"], taken["client"]) == (0, 1)


ROWS = [
    {"step": 0, "time/wall_s": 20.0, "time/start_s": 18.0, "time/start/imports_s": 4.0},
    {
        "step": 1,
        "time/wall_s": 11.0,
        "time/step_s": 10.0,
        "time/rollout_s": 6.0,
        "time/rollout/server_s": 5.0,
        "time/train_s": 3.5,
        "time/update_s": 3.5,
    },
]


def test_the_parts_of_every_phase_add_up_to_it():
    """Of 10 s of a step 0.5 lie in none of its parts, and 1 of the rollout's 6 in none of the rollout's: 15%."""
    split = split_of(ROWS)
    assert split is not None
    assert [(p.key, p.depth, p.seconds) for p in split.phases] == [
        ("start", 0, 18),
        ("start/imports", 1, 4),
        ("start/unaccounted", 1, 14),
        ("step", 0, 10),
        ("rollout", 1, 6),
        ("rollout/server", 2, 5),
        ("rollout/unaccounted", 2, 1),
        ("train", 1, 3.5),
        ("update", 2, 3.5),
        ("train/unaccounted", 2, 0),
        ("step/unaccounted", 1, 0.5),
        ("unaccounted", 0, 3),
    ]
    assert (split.wall_s, split.steps) == (31, 1)
    assert split.unaccounted_of_steps == pytest.approx(0.15)


def test_a_report_shows_what_is_unaccounted():
    out = io.StringIO()
    split = split_of(ROWS)
    assert split is not None
    Console(file=out, width=80).print(table_of(split))
    shown = [line.split() for line in out.getvalue().splitlines()]
    assert [
        "│",
        "unaccounted,",
        "of",
        "the",
        "steps",
        "│",
        "1.50",
        "│",
        "15.0%",
        "of",
        "them",
        "│",
    ] in shown
    assert ["│", "rollout", "│", "6.00", "│", "19.4%", "│"] in shown


def test_a_run_of_before_is_not_given_a_split():
    assert split_of([{"step": 1, "time/step_s": 3.0}]) is None


def test_a_rows_seconds_stand_in_metrics_jsonl(tmp_path, clock):
    class OneRank:
        is_first = is_leader = True
        watch = RankWatch(rank=0, world_size=1)

        def gather(self, value):
            return [value]

    metrics = Metrics(
        OneRank(),  # type: ignore[arg-type]
        tmp_path,
        timeline=Timeline(clock=clock),
    )
    with metrics.span("step"), metrics.span("train"):
        clock.pass_(0.5)
    metrics.flush(1)
    (row,) = read_rows(tmp_path / "metrics.jsonl")
    assert row == {"step": 1, "time/step_s": 0.5, "time/train_s": 0.5, "time/wall_s": 0.5}
