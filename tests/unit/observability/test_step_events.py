"""When the parts of a step began and ended, kept for the newest steps."""

import pytest

from megatron_ar3po.observability.step_events import EventRecorder, read_events, traced_steps
from megatron_ar3po.observability.timeline import Timeline


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def recorder(folder, timeline, *, rank=0, last_steps=2, every_steps=0, wall=lambda: 1000.0):
    return EventRecorder(
        folder, timeline, rank=rank, last_steps=last_steps, every_steps=every_steps, wall_clock=wall
    )


def roll_out(timeline: Timeline, clock: Clock) -> None:
    """0.5 s of nothing; a request of 2 s, of which its server says it took 1.5; a verdict of 1 s."""
    with timeline.span("step"), timeline.span("rollout"):
        clock.pass_(0.5)
        with timeline.sampling():
            with timeline.during("http", "s1.p0.1.0"):
                clock.pass_(2)
            timeline.record_service(1.5, "s1.p0.1.0", "dp0.s0")
            with timeline.during("verifier", "s1.p0.1.0"):
                clock.pass_(1)


def test_a_step_holds_each_span_request_and_verdict_in_microseconds(tmp_path, clock):
    """The step began 3.5 s before it is written, at 1000 s by the wall clock."""
    timeline = Timeline(clock=clock)
    events = recorder(tmp_path, timeline)
    roll_out(timeline, clock)
    events.write(1)
    [one] = read_events(tmp_path, 1)
    assert (one.step, one.rank, one.began) == (1, 0, 996.5)
    assert one.events == [
        ("http", 500_000, 2_000_000, "s1.p0.1.0", ""),
        ("served", 1_000_000, 1_500_000, "s1.p0.1.0", "dp0.s0"),
        ("verifier", 2_500_000, 1_000_000, "s1.p0.1.0", ""),
        ("span", 0, 3_500_000, "rollout", ""),
        ("span", 0, 3_500_000, "step", ""),
    ]


def test_the_seconds_of_a_step_are_the_same_with_its_events(clock):
    plain, kept = Timeline(clock=clock), Timeline(clock=clock)
    kept.keep_events()
    seconds = []
    for timeline in (plain, kept):
        timeline.take()
        roll_out(timeline, clock)
        seconds.append({k: v for k, v in timeline.take().items() if k != "wall"})
    assert seconds[0] == seconds[1] and seconds[0]["rollout/server"] == 1.5
    assert plain.take_events() == [] and len(kept.take_events()) == 5
    assert kept.take_events() == []


def test_a_request_that_failed_is_kept_too(clock):
    timeline = Timeline(clock=clock)
    timeline.keep_events()
    with pytest.raises(OSError), timeline.sampling(), timeline.during("http", "s1.p0.1.0"):
        clock.pass_(2)
        raise OSError
    assert timeline.take_events() == [("http", 100, 102, "s1.p0.1.0", "")]


def test_the_newest_steps_stay_and_those_that_are_kept_for_good(tmp_path, clock):
    timeline = Timeline(clock=clock)
    events = recorder(tmp_path, timeline, last_steps=2, every_steps=4)
    for step in range(10):
        with timeline.span("step"):
            clock.pass_(1)
        events.write(step)
    assert traced_steps(tmp_path) == [0, 4, 8, 9]


@pytest.mark.parametrize(("last", "every", "there"), [(0, 0, []), (0, 3, [0, 3])])
def test_no_step_is_kept_that_nobody_asked_for(tmp_path, clock, last, every, there):
    timeline = Timeline(clock=clock)
    events = recorder(tmp_path / "trace", timeline, last_steps=last, every_steps=every)
    for step in range(5):
        with timeline.span("step"):
            clock.pass_(1)
        events.write(step)
    assert traced_steps(tmp_path / "trace") == there
    assert (tmp_path / "trace").exists() == bool(there)


def test_a_rank_removes_its_own_alone(tmp_path, clock):
    timelines = [Timeline(clock=clock) for _ in range(2)]
    ranks = [recorder(tmp_path, t, rank=r, last_steps=1) for r, t in enumerate(timelines)]
    for step, rank in ((1, 0), (1, 1), (2, 0)):
        with timelines[rank].span("step"):
            clock.pass_(1)
        ranks[rank].write(step)
    assert [one.rank for one in read_events(tmp_path, 1)] == [1]
    assert [one.rank for one in read_events(tmp_path, 2)] == [0]


def test_a_trace_that_cannot_be_written_ends_with_a_warning_and_the_run_goes_on(
    tmp_path, clock, caplog
):
    (tmp_path / "trace").write_text("a file where the folder should be")
    timeline = Timeline(clock=clock)
    events = recorder(tmp_path / "trace", timeline)
    for step in (1, 2):
        with timeline.span("step"):
            clock.pass_(1)
        events.write(step)
    assert [r.message for r in caplog.records if "no step is traced any more" in r.message] != []
    assert len(caplog.records) == 1


def test_a_step_that_is_not_there_and_a_damaged_one_are_told(tmp_path, clock):
    with pytest.raises(ValueError, match="holds the events of no step"):
        read_events(tmp_path, 1)
    (tmp_path / "step_00007.rank0000.json").write_text('{"step": 7, "rank": 0, "hos')
    with pytest.raises(ValueError, match="does not hold the events of step 1, but of 7"):
        read_events(tmp_path, 1)
    with pytest.raises(ValueError, match=r"step_00007.rank0000.json is no record of a step"):
        read_events(tmp_path, 7)
    with pytest.raises(ValueError, match="nothing is no folder; name a run's folder"):
        read_events(tmp_path / "nothing/trace", 7)
