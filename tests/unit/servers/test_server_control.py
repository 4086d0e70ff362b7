"""What `ServerControl` tells servers that run, starting ones and lost ones. The servers are small applications with
SGLang's rules; real ones at their gates are in e2e/test_memory_order.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from fakes.sglang_app import FakeSglang, serve

from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.servers.control import ServerControl

ALL = ["kv_cache", "weights"]


class Started:
    """A server as the rank holds it that has started it; `told` is in the order of all of them."""

    def __init__(self, name: str, url: str, told: list[str], *, is_at_gate: bool = False) -> None:
        self.name, self.url, self.told = name, url, told
        self.num_restarts = 0
        self.is_at_gate = is_at_gate
        self.runs = True

    def is_running(self) -> bool:
        return self.runs

    def open_gate(self) -> None:
        self.told.append(f"{self.name} open")
        self.is_at_gate = False

    def wait_ready(self) -> float:
        assert not self.is_at_gate
        self.told.append(f"{self.name} ready")
        return 0.0

    def restart_behind_gate(self) -> None:
        self.told.append(f"{self.name} restart")
        self.num_restarts += 1
        self.runs = self.is_at_gate = True

    def log_tail(self) -> str:
        return ""


@contextmanager
def two_servers(*, at_gates: bool) -> Iterator[tuple[list[Started], list[FakeSglang], list[str]]]:
    apps, told = [FakeSglang(), FakeSglang()], []
    with ExitStack() as stack:
        urls = [stack.enter_context(serve(app)) for app in apps]
        yield (
            [Started(f"s{i}", url, told, is_at_gate=at_gates) for i, url in enumerate(urls)],
            apps,
            told,
        )


def test_all_gates_open_before_any_server_is_waited_for_and_then_they_sleep_as_the_others():
    with two_servers(at_gates=True) as (servers, apps, told):
        control = ServerControl(servers, timeout_s=10)
        control.hold_back(ALL)
        control.sleep(ALL)
        control.wake(ALL)
        assert (told, apps[0].calls, apps[1].calls) == ([], [], [])  # nobody speaks to them
        assert control.at_gates == ["s0", "s1"]
        control.admit(["weights"])
        assert told == ["s0 open", "s1 open", "s0 ready", "s1 ready"]
        assert [app.asleep for app in apps] == [{"weights"}, {"weights"}]
        assert control.at_gates == []


def test_what_runs_already_lets_go_of_its_memory_before_the_actor_allocates():
    with two_servers(at_gates=False) as (servers, apps, told):
        ServerControl(servers, timeout_s=10).hold_back(ALL)
        assert told == ["s0 ready", "s1 ready"]
        assert [app.asleep for app in apps] == [set(ALL), set(ALL)]


def test_a_lost_server_waits_at_its_gate_and_the_others_sleep_without_it():
    with two_servers(at_gates=False) as (servers, apps, told):
        forgotten: list[str] = []
        control = ServerControl(servers, timeout_s=10, restarted=forgotten.append)
        servers[1].runs = False
        assert control.restart_lost() == ["s1"]
        assert control.restart_lost() == []  # it is not lost again while it waits
        assert (told, forgotten) == (["s1 restart"], [servers[1].url])
        control.sleep(ALL)
        assert (apps[0].asleep, apps[1].calls) == (set(ALL), [])


def test_a_server_that_is_still_at_an_aborted_request_lives():
    with two_servers(at_gates=False) as (servers, apps, told):
        apps[0].num_running, apps[0].ends_after_s = 1, 60.0
        assert ServerControl(servers, timeout_s=10).restart_lost() == []
        assert told == []


def test_an_aborted_request_that_lingers_is_waited_for():
    """Half a second here; SGLang refuses to empty its cache under a request."""
    with two_servers(at_gates=False) as (servers, apps, _):
        apps[0].num_running, apps[0].ends_after_s = 1, 0.5
        ServerControl(servers, timeout_s=10).sleep(ALL)
        assert apps[0].asleep == set(ALL)


def test_a_request_that_does_not_end_is_an_error_that_names_the_server_and_the_call():
    with two_servers(at_gates=False) as (servers, apps, _):
        apps[0].num_running, apps[0].ends_after_s = 1, 60.0
        with pytest.raises(RolloutEngineError, match=r"server s0 refused /flush_cache.*Timed out"):
            ServerControl(servers, timeout_s=0.6).sleep(ALL)
        assert apps[0].asleep == set()
