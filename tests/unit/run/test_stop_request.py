from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from fakes.ranks import OneRank

from megatron_ar3po.run.stop_request import StopRequest

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
ONE_RANK = cast(Any, OneRank())


@dataclass
class TwoRanks(OneRank):
    """The other rank's answer, given as it would come."""

    other: list[str] = field(default_factory=list)

    def gather(self, value: Any) -> list[Any]:
        return [value, *self.other]


@pytest.fixture
def install():
    before = [signal.getsignal(n) for n in SIGNALS]

    def make(**options):
        request = StopRequest(**options)
        request.install()
        return request

    yield make
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def stop(install):
    return install()


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_lets_the_step_end(stop, number):
    stop.loop_starts()
    assert not stop.agree(ONE_RANK)
    os.kill(os.getpid(), number)
    assert stop.agree(ONE_RANK)
    assert stop.reason == signal.Signals(number).name


def test_one_ctrl_c_that_arrives_twice_is_one(stop):
    stop.loop_starts()
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.agree(ONE_RANK)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_one_later_stops_at_once_and_a_third_disturbs_nothing(install, number):
    stop = install(repeat_after_s=0.0)
    stop.loop_starts()
    os.kill(os.getpid(), signal.SIGUSR1)
    with pytest.raises(KeyboardInterrupt, match=signal.Signals(number).name):
        os.kill(os.getpid(), number)
    os.kill(os.getpid(), number)


def test_a_second_warning_of_the_cluster_ends_nothing(install):
    stop = install(repeat_after_s=0.0)
    stop.loop_starts()
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert stop.agree(ONE_RANK)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_the_loop_there_is_nothing_to_save(stop, number):
    with pytest.raises(KeyboardInterrupt, match=signal.Signals(number).name):
        os.kill(os.getpid(), number)


def test_a_clusters_warning_that_comes_early_is_kept(stop):
    os.kill(os.getpid(), signal.SIGUSR1)
    stop.loop_starts()
    assert stop.agree(ONE_RANK)


def test_the_stop_file_asks_as_well(monkeypatch, tmp_path):
    file = tmp_path / "stop"
    monkeypatch.setenv("AR3PO_STOP_FILE", str(file))
    request = StopRequest()
    assert not request.agree(ONE_RANK)
    file.touch()
    assert request.agree(ONE_RANK)
    assert str(file) in request.reason


def test_a_signal_after_a_file_that_the_loop_has_not_seen_is_the_second_request(
    install, monkeypatch, tmp_path
):
    """The file is a minute old: the step lasts, and somebody has lost patience; the launcher passes that on as SIGINT.
    SIGTERM is the same request, however old the file: a scheduler that signals every process of a job reaches launcher
    and ranks together, and a rank that waits in a collective call hears of it when that is over."""
    file = tmp_path / "stop"
    monkeypatch.setenv("AR3PO_STOP_FILE", str(file))
    stop = install()
    stop.loop_starts()
    file.touch()
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.reason == "SIGTERM"
    later = install()
    later.loop_starts()
    os.utime(file, (time.time() - 60, time.time() - 60))
    os.kill(os.getpid(), signal.SIGTERM)
    assert later.reason == "SIGTERM"
    last = install()
    last.loop_starts()
    with pytest.raises(KeyboardInterrupt, match="SIGINT"):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_right_after_what_the_loop_has_seen_is_the_same_request(
    install, monkeypatch, tmp_path
):
    """The file, or another rank's signal: in each case one's own comes a moment later."""
    file = tmp_path / "stop"
    monkeypatch.setenv("AR3PO_STOP_FILE", str(file))
    by_rank, by_file = install(), install()
    assert by_rank.agree(cast(Any, TwoRanks(other=["SIGTERM"])))
    file.touch()
    assert by_file.agree(ONE_RANK)
    for stop in (by_rank, by_file):
        stop.install()
        stop.loop_starts()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.agree(ONE_RANK)


def test_what_one_rank_was_asked_is_the_reason_on_all():
    request = StopRequest()
    assert not request.agree(cast(Any, TwoRanks(other=[""])))
    assert request.agree(cast(Any, TwoRanks(other=["SIGUSR1"])))
    assert request.reason == "SIGUSR1"


def test_a_run_stops_when_its_seconds_have_passed_and_not_before():
    """Asked before each step. The first one is made even where the start has taken all the time: a run that is resumed
    again and again gets on."""
    for limit in (0, 3600):
        request = StopRequest(max_seconds=limit)
        assert not any(request.agree(ONE_RANK) for _ in range(3))
    request = StopRequest(max_seconds=0.01)
    time.sleep(0.02)
    assert not request.agree(ONE_RANK)
    assert request.agree(ONE_RANK)
    assert request.reason == "run.max_seconds=0.01 reached"


def test_a_fault_stops_the_run_too():
    request = StopRequest()
    request.fault = "6 updates in a row were skipped"
    assert request.agree(ONE_RANK)
    assert request.reason == request.fault
