"""A server that outlived its trainer, and the next trainer that attaches to it. The server keeps SGLang's rules
(tests/fakes/sglang_app.py); tests/e2e/test_publish.py does it with the real one."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.sglang_app import FakeSglang, serve

from megatron_ar3po.http_client import request
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.servers import lease as lease_module
from megatron_ar3po.servers import recovery
from megatron_ar3po.servers.external_server import ExternalServer
from megatron_ar3po.servers.lease import read_state, take_lease

ARGUMENTS = {"model_path": "/model", "dtype": "float32"}
TESTS = Path(__file__).parents[2]

# Takes the lease, leaves the server in the midst of what its words say, and says that it did.
TRAINER = """
    import sys, time
    from megatron_ar3po.platform.process_guard import die_with_parent
    die_with_parent()
    from megatron_ar3po.http_client import request
    from megatron_ar3po.servers.lease import take_lease
    lease = take_lease(sys.argv[1], "run one")
    for word in sys.argv[2:]:
        route, _, tags = word.partition("=")
        request("POST", sys.argv[1] + route, json={"tags": tags.split("+")}, timeout_s=10)
    print("there", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def sglang() -> FakeSglang:
    app = FakeSglang()
    app.stated = dict(ARGUMENTS)
    return app


@pytest.fixture
def url(sglang: FakeSglang) -> Iterator[str]:
    with serve(sglang) as url:
        yield url


class Attachment:
    """A run that uses a server of somebody else, and what it said of it."""

    def __init__(
        self,
        url: str,
        *,
        publishes: bool = True,
        abandoned_after_s: float | None = None,
        publish_timeout_s: float = 20.0,
        timeout_s: float = 20.0,
    ):
        self.lines: list[str] = []
        self.server = ExternalServer(
            url,
            name="dp0.s0",
            arguments=ARGUMENTS,
            tensor_parallel_size=1,
            timeout_s=timeout_s,
            publish_timeout_s=publish_timeout_s,
            client="run two",
            publishes=publishes,
            abandoned_after_s=abandoned_after_s,
            report=self.lines.append,
        )


def start_trainer(url: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(TRAINER), url, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
    except BaseException:  # an interrupt too
        process.kill()
        process.wait(10)
        raise
    return process


def kill_trainer(url: str, *words: str) -> None:
    process = start_trainer(url, *words)
    process.kill()
    process.wait(10)


def test_a_trainer_that_died_in_a_publish_leaves_nothing_that_the_next_one_trips_over(sglang, url):
    kill_trainer(url, "/pause_generation", "/flush_cache", "/begin_weight_update")
    sglang.num_running = 3  # of a client on a node that is gone: nobody closed its connections
    attached = Attachment(url)
    assert attached.server.wait_ready() < 5
    assert attached.lines == [
        f"server dp0.s0 at {url} was left behind by run one: its weight-update session was ended, generation was "
        "continued, its requests in flight were aborted."
    ]
    assert (sglang.is_paused, sglang.has_session, sglang.num_running) == (False, False, 0)
    assert sglang.num_aborted == 3
    assert request("POST", url + "/begin_weight_update", timeout_s=10).status == 200
    attached.server.release()


def test_a_server_that_a_run_left_at_its_end_is_woken_without_a_word(sglang, url):
    """As after the run's last checkpoint."""
    kill_trainer(url, "/release_memory_occupation=kv_cache")
    attached = Attachment(url)
    attached.server.wait_ready()
    assert (sglang.asleep, attached.lines) == (set(), [])
    attached.server.release()


def test_memory_that_a_dead_trainer_released_is_woken_and_no_other(sglang, url):
    """Released: both, then the weights woken again for a publish. SGLang dies of a tag that is awake already."""
    kill_trainer(
        url,
        "/release_memory_occupation=kv_cache+weights",
        "/resume_memory_occupation=weights",
        "/pause_generation",
    )
    assert sglang.asleep == {"kv_cache"}
    attached = Attachment(url)
    attached.server.wait_ready()
    assert sglang.asleep == set() and not sglang.is_paused
    assert "its memory (kv_cache) was woken" in attached.lines[0]
    attached.server.release()


def test_after_a_trainer_that_ended_well_nothing_is_done_and_nothing_is_said(sglang, url):
    first = Attachment(url)
    first.server.wait_ready()
    first.server.release()
    sglang.calls.clear()
    second = Attachment(url)
    second.server.wait_ready()
    assert first.lines == second.lines == []
    assert {"/end_weight_update", "/continue_generation", "/abort_request"}.isdisjoint(sglang.calls)
    second.server.release()


def test_a_server_that_a_living_trainer_uses_is_refused_and_left_alone(sglang, url):
    trainer = start_trainer(url, "/pause_generation", "/begin_weight_update")
    try:
        sglang.calls.clear()
        time.sleep(0.5)  # two of the bytes that the lease is kept alive with
        with pytest.raises(ValueError, match=f"servers.urls names {url}, which run one is using"):
            Attachment(url).server.wait_ready()
        assert set(sglang.calls) == {"/ready"}
        assert sglang.is_paused and sglang.has_session
    finally:
        trainer.kill()
        trainer.wait(10)
    attached = Attachment(url)
    attached.server.wait_ready()  # and once it is gone it is taken
    attached.server.release()


def test_a_server_that_a_run_started_for_itself_is_nobody_elses(sglang):
    """It samples, or sleeps while the run trains; its trainer holds no connection, and yet it is not free."""
    with serve(sglang, owner="process 7 on a, run of one") as url:
        with pytest.raises(ValueError, match=f"{url}, which process 7 on a, run of one is using"):
            take_lease(url, "run two", limit_s=0.2)
        assert read_state(url).holder == "process 7 on a, run of one"


def test_a_server_that_is_busy_for_a_while_is_asked_again(sglang, url, monkeypatch):
    """Its event loop stands still for 0.6 s, the length of three calls. It hears of the first ones when they are given
    up: they hold the lease until it sees that they have ended."""
    monkeypatch.setattr(lease_module, "_CALL_LIMIT_S", 0.2)
    sglang.stands_still_s = 0.6
    threading.Thread(target=lambda: request("GET", url + "/stand_still", timeout_s=10)).start()
    while "/stand_still" not in sglang.calls:
        time.sleep(0.01)
    lease = take_lease(url, "run two")
    assert lease is not None
    sglang.calls.clear()
    threading.Thread(target=lambda: request("GET", url + "/stand_still", timeout_s=10)).start()
    while "/stand_still" not in sglang.calls:
        time.sleep(0.01)
    assert lease.settled_state(limit_s=20).holder == "run two"
    lease.release()


def test_a_server_that_answers_no_more_ends_the_start_with_a_sentence():
    dead = "http://127.0.0.1:9"
    with pytest.raises(
        RolloutEngineError, match=f"server {dead} does not say who uses it, for 0.2 s"
    ):
        take_lease(dead, "run two", answer_limit_s=0.2)
    with pytest.raises(
        RolloutEngineError, match=f"server {dead} does not say who uses it, for 0.2 s"
    ):
        read_state(dead, answer_limit_s=0.2)


def test_a_call_in_which_the_trainer_died_is_waited_for(sglang, url):
    """An update runs on for a second; a session that is ended meanwhile would be ended under it."""
    sglang.slow_s = 1.0
    lease = take_lease(url, "run one")
    assert lease is not None
    request("POST", url + "/begin_weight_update", timeout_s=10)
    update = threading.Thread(
        target=lambda: request("POST", url + "/update_weights_from_tensor", timeout_s=10)
    )
    update.start()
    while "/update_weights_from_tensor" not in read_state(url).running:
        time.sleep(0.02)
    lease.release()
    attached = Attachment(url)
    attached.server.wait_ready()
    attached.server.release()
    done, ended = (
        sglang.calls.index(r) for r in ("/update_weights_from_tensor", "/end_weight_update")
    )
    assert done < ended and not update.is_alive()


def test_a_call_that_outlasts_the_limit_of_a_publish_is_said_to_wait_for_what_never_comes(
    sglang, url
):
    """A disk load may take a living client weight_sync.timeout_s; a dead one's is given as long, and no longer."""
    sglang.slow_s = 1.5
    update = threading.Thread(
        target=lambda: request("POST", url + "/update_weights_from_tensor", timeout_s=10)
    )
    update.start()
    while "/update_weights_from_tensor" not in read_state(url).running:
        time.sleep(0.02)
    attached = Attachment(url, publish_timeout_s=0.3)
    with pytest.raises(RolloutEngineError, match=r"for 0\.3 s \(weight_sync\.timeout_s\)"):
        attached.server.wait_ready()
    update.join()
    attached.server.release()


def test_weights_are_loaded_within_the_time_of_a_start_not_of_a_call(sglang, url, monkeypatch):
    monkeypatch.setattr(recovery, "_CALL_LIMIT_S", 0.2)  # what any other call may take
    sglang.version = "unfinished-7"
    sglang.slow_s = 0.6
    attached = Attachment(url, publishes=False)
    attached.server.wait_ready()
    assert (sglang.loaded, sglang.version) == ("/model", "default")
    attached.server.release()


def test_a_server_that_lends_no_lease_is_taken_for_abandoned_when_it_stays_paused(sglang):
    """A plain SGLang server: who paused it may be at work for a while."""
    with serve(sglang, with_lease=False) as url:
        sglang.respond("/pause_generation", {})
        sglang.respond("/begin_weight_update", {})
        attached = Attachment(url, abandoned_after_s=1.0)
        assert 1.0 < attached.server.wait_ready() < 6
        assert "If that lasts for 1 s, that client is taken for dead" in attached.lines[0]
        assert "left behind by another client: its weight-update session" in attached.lines[1]
        assert not sglang.has_session

        sglang.respond("/pause_generation", {})
        threading.Timer(0.3, lambda: sglang.respond("/continue_generation", {})).start()
        sglang.calls.clear()
        attached = Attachment(url, publish_timeout_s=300.0)
        attached.server.wait_ready()
        assert "/continue_generation" not in sglang.calls  # it was at work
        assert "If that lasts for 600 s" in attached.lines[0]  # a publish may pause it for 300 s


def test_a_server_taken_for_abandoned_has_its_time_to_become_ready_after_that():
    """The 1.5 s that were waited for its client are more than the 1.2 s in which it must be ready."""

    class Slow(FakeSglang):
        def respond(self, path, body):
            if path != "/continue_generation":
                return super().respond(path, body)
            threading.Timer(0.3, super().respond, (path, body)).start()
            return 200, "{}"

    sglang = Slow()
    sglang.stated = dict(ARGUMENTS)
    sglang.is_paused = True
    with serve(sglang, with_lease=False) as url:
        Attachment(url, abandoned_after_s=1.5, timeout_s=1.2).server.wait_ready()
    assert not sglang.is_paused


@pytest.mark.parametrize("publishes", [True, False])
def test_a_busy_server_that_lends_no_lease_is_somebodys_and_left_alone(
    sglang, publishes, monkeypatch
):
    """It may hold weights of a living run, and generates for it: nothing is aborted, and nothing loaded over them."""
    monkeypatch.setattr(recovery, "_IDLE_LIMIT_S", 0.3)
    monkeypatch.setattr(recovery, "_LOOK_INTERVAL_S", 0.1)
    sglang.version = "unfinished-7"
    sglang.num_running = 3
    with serve(sglang, with_lease=False) as url:
        with pytest.raises(ValueError, match=f"servers.urls names {url}, which somebody uses"):
            Attachment(url, publishes=publishes).server.wait_ready()
        assert (sglang.num_running, sglang.num_aborted, sglang.version) == (3, 0, "unfinished-7")

        monkeypatch.setattr(recovery, "_IDLE_LIMIT_S", 20.0)
        threading.Timer(0.3, setattr, (sglang, "num_running", 0)).start()
        attached = Attachment(url, publishes=publishes)
        attached.server.wait_ready()  # they have ended by themselves
        assert sglang.num_aborted == 0
        assert sglang.version == ("unfinished-7" if publishes else "default")


def test_a_run_that_publishes_nothing_does_not_sample_from_weights_of_another(sglang, url):
    """debug.mode=rollout_only: the policy is the model that the server was started with."""
    first = Attachment(url, publishes=False)
    first.server.wait_ready()
    assert sglang.loaded == ""  # it holds them
    first.server.release()
    sglang.version = "unfinished-7"
    second = Attachment(url, publishes=False)
    second.server.wait_ready()
    assert (sglang.loaded, sglang.version) == ("/model", "default")
    assert "the weights that it was started with were loaded again" in second.lines[0]
    second.server.release()
