import os
import signal

import pytest

from megatron_ar3po.run.stop_request import StopRequest


@pytest.fixture
def install():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(n) for n in numbers]

    def make(**options):
        request = StopRequest(**options)
        request.install()
        return request

    yield make
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def stop(install):
    return install()


def test_the_first_signal_lets_the_step_end(stop):
    stop.loop_starts()
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.is_requested
    assert stop.reason == "SIGTERM"


def test_one_ctrl_c_that_arrives_twice_is_one(stop):
    stop.loop_starts()
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.is_requested


def test_a_second_one_later_stops_at_once(install):
    stop = install(repeat_after_s=0.0)
    stop.loop_starts()
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_before_the_loop_there_is_nothing_to_save(stop):
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_clusters_warning_that_comes_early_is_kept(stop):
    os.kill(os.getpid(), signal.SIGUSR1)
    stop.loop_starts()
    assert stop.is_requested


def test_the_stop_file_asks_as_well(monkeypatch, tmp_path):
    file = tmp_path / "stop"
    monkeypatch.setenv("AR3PO_STOP_FILE", str(file))
    request = StopRequest()
    assert not request.is_requested
    file.touch()
    assert request.is_requested
    assert str(file) in request.reason
