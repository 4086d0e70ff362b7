"""One of two real SGLang servers dies, or hangs, in the middle of a stage; the router dies. The weights are published
from a folder, as the `disk` transport does; the Megatron side of a publish is not exercised here."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from e2e.test_rollout_server import ROLLOUT, SERVERS, a_third_is_correct, make_prompts
from fakes.tiny_model import MAX_CONTEXT_TOKENS, STOP_TOKEN_ID, VOCAB_SIZE, write_tiny_model
from fakes.verifier import FakeVerifier

from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.http_client import request
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.rollout.ledger import Ledger
from megatron_ar3po.servers.counters import read_counters, server_books
from megatron_ar3po.servers.placement import ServerPlacement
from megatron_ar3po.servers.routed_engine import RoutedEngine
from megatron_ar3po.servers.router import GlobalRouter
from megatron_ar3po.servers.router_control import RouterControl
from megatron_ar3po.servers.server import process_of
from megatron_ar3po.servers.sglang_engine import SglangEngine
from megatron_ar3po.servers.sglang_server import SglangServer
from megatron_ar3po.types import CollectedStep
from megatron_ar3po.usage import NOBODY, ServerBook, ServerCounters, ServerUsage

VERSION = 7


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """What the policy has become: not what the servers start from."""
    return write_tiny_model(tmp_path_factory.mktemp("trained"), seed=1)


@pytest.fixture(scope="module")
def servers(trained, tmp_path_factory) -> Iterator[list[SglangServer]]:
    start = write_tiny_model(tmp_path_factory.mktemp("start"), seed=0)
    logs = tmp_path_factory.mktemp("logs")
    made = [
        SglangServer(
            ServersConfig(**SERVERS, max_server_restarts=10),
            ServerPlacement(name=f"dp0.s{i}"),
            model_path=str(start),
            dtype="float32",
            is_deterministic=True,
            log_dir=logs,
        )
        for i in range(2)
    ]
    try:
        for server in made:
            server.start()
        for server in made:
            server.wait_ready()
            publish(server, trained)
        yield made
    finally:
        for server in made:
            server.stop()


def publish(server: SglangServer, folder: Path) -> None:
    body = {"model_path": str(folder), "weight_version": str(VERSION), "flush_cache": True}
    url = server.url + "/update_weights_from_disk"
    response = request("POST", url, json=body, timeout_s=60)
    assert response.status == 200, response.text


def since(start: dict, book: ServerBook) -> ServerBook:
    """Without what the process had done before this test."""
    before = start.get((book.server, book.restarts))
    if before is None or book.theirs is None:
        return book
    counts = {n: getattr(book.theirs, n) - getattr(before, n) for n in before.__slots__}
    return replace(book, theirs=ServerCounters(**counts))


def make_controller(
    servers, verifier, on_server_lost=None, hang_timeout_s=120.0, **options
) -> RolloutController:
    config = ServersConfig(**SERVERS, servers_per_replica=2, hang_timeout_s=hang_timeout_s)
    engine = SglangEngine(
        servers,
        config,
        vocab_size=VOCAB_SIZE,
        is_deterministic=True,
        on_server_lost=on_server_lost,
    )
    return RolloutController(
        engine,
        verifier,
        RolloutConfig(**{**ROLLOUT, **options}),
        config,
        run_seed=3,
        stop_token_ids=(STOP_TOKEN_ID,),
        max_context_tokens=MAX_CONTEXT_TOKENS,
        vocab_size=VOCAB_SIZE,
    )


def engine_of(controller: RolloutController) -> SglangEngine:
    assert isinstance(controller.engine, SglangEngine)
    return controller.engine


def rows_of(path: Path, kind: str) -> list[dict]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def kill_when(condition, group, signal_number: int = signal.SIGKILL) -> threading.Thread:
    """The signal to the whole process group `group()`, once the condition holds."""

    def wait_and_kill() -> None:
        deadline = time.monotonic() + 60
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.002)
        os.killpg(group(), signal_number)

    thread = threading.Thread(target=wait_and_kill)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "signal_number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.chaos)]
)
def test_one_of_two_servers_is_lost_in_the_middle_of_a_stage(
    servers, trained, tmp_path, signal_number
):
    """SIGKILL: it dies. SIGSTOP: it hangs; its connections stay open, and nothing comes. Seeded servers give the same
    tokens whoever was lost, and other weights give others: equal tokens say that the new process holds the published
    ones. A step before, on the same books, so that the lost process has reported something."""
    prompts = make_prompts(24)
    length = {"max_response_tokens": 64, "hang_timeout_s": 10.0}

    def revive(lost: SglangServer) -> None:
        lost.restart()
        publish(lost, trained)

    verifier = FakeVerifier(a_third_is_correct)
    controller = make_controller(servers, verifier, revive, **length)
    path = tmp_path / "dp00.jsonl"
    start = {process_of(s): read_counters(s.url) for s in servers}  # of other tests
    ledger = Ledger(
        path, lambda: [since(start, book) for book in server_books(engine_of(controller))]
    )

    def step(number: int, collected_step: int) -> list:
        ledger.open_step(prompts, step=number, policy_version=VERSION)
        groups = controller.collect(prompts, step=collected_step, policy_version=VERSION).groups
        ledger.record_step(CollectedStep(groups=tuple(groups)), step=number, policy_version=VERSION)
        ledger.reconcile(step=number)
        return groups

    before = {s.name: s.num_restarts for s in servers}
    undisturbed = step(1, 5)
    expected = list(verifier.verified)
    verifier.verified.clear()
    killer = kill_when(
        lambda: len(verifier.verified) >= 5, lambda: servers[1].process_group, signal_number
    )
    disturbed = step(2, 5)  # the same draws again
    killer.join(60)

    # it completed, and no response was lost or counted twice
    assert [s.num_restarts - before[s.name] for s in servers] == [0, 1]
    assert sorted(verifier.verified) == sorted(expected)
    assert len(set(verifier.verified)) == len(verifier.verified)
    # the restarted server has the current weights under the current version
    for got, wanted in zip(disturbed, undisturbed, strict=True):
        assert tokens_of(got) == tokens_of(wanted)
        assert {r.response.policy_version for r in got.responses} == {VERSION}
    served = {r.response.server for g in disturbed for r in g.responses}
    assert served == {"dp0.s0", "dp0.s1"}
    # the ledger came out: reconcile would have raised. The dead process is one bounded row.
    (lost,) = rows_of(path, "lost_server")
    assert (lost["step"], lost["server"], lost["restarts"]) == (2, "dp0.s1", before["dp0.s1"])
    num_lost = lost["unreported_requests_max"] - lost["unreported_requests_min"]
    assert 0 < num_lost <= 24 * 8
    assert lost["unreported_generated_tokens_max"] <= (
        lost["unreported_generated_tokens_min"] + 64 * num_lost
    )
    living = {(r["server"], r["restarts"]): r for r in rows_of(path, "server") if r["step"] == 2}
    assert set(living) == {(s.name, s.num_restarts) for s in servers}
    answered = sum(r["requests"] for r in living.values()) + lost["requests"]
    assert answered == sum(r["responses"] for r in rows_of(path, "prompt")) == 2 * len(expected)
    assert [row["step"] for row in rows_of(path, "intent")] == [1, 2]
    controller.close()


def test_cancelled_siblings_are_a_class_of_their_own_in_the_books(servers):
    """The first correct answer of a stage ends the others at the real servers. What they had generated is in the
    servers' counters, is named in the ledger, and is graded by nobody."""
    verifier = FakeVerifier(lambda prompt, response: response.num_tokens < 40)
    controller = make_controller(servers, verifier, max_response_tokens=300, cancel_solved=True)
    before = [read_counters(server.url) for server in servers]
    collected = controller.collect(make_prompts(24), step=9, policy_version=VERSION)
    counts = {name: record.value for name, record in collected.records.items()}
    controller.close()
    responses = [scored.response for group in collected.groups for scored in group.responses]
    assert {r.finish_reason for r in responses} <= {"stop", "length"}
    assert sorted(verifier.verified) == sorted(r.response_id for r in responses)
    assert counts["rollout/cancel/responses"] > 10 and counts["rollout/cancel/tokens"] > 100
    # the survivors are short: the bias that the option buys its tokens with
    assert counts["rollout/cancel/winner_length_tokens"] > 0
    seen = sum(engine_of(controller).usage.values(), ServerUsage())
    assert seen.aborted_requests + seen.queue_aborts == counts["rollout/cancel/responses"]
    assert seen.aborted_generated_tokens == counts["rollout/cancel/tokens"]
    assert seen.requests == len(responses) + seen.aborted_requests
    after = [read_counters(server.url) for server in servers]
    for name in ("requests", "prompt_tokens", "cached_prompt_tokens", "generated_tokens"):
        grown = sum(getattr(a, name) - getattr(b, name) for a, b in zip(after, before, strict=True))
        assert grown == getattr(seen, name), name


@pytest.mark.parametrize(
    "signal_number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.chaos)]
)
def test_a_server_and_then_the_router_are_lost(servers, trained, tmp_path, signal_number):
    """As above, with `servers.routing=global`: the real sglang-router chooses the server. The lost samples are drawn by
    the other one while the lost one is restarted; the router sees it again when it holds the weights. Then the router
    itself is killed, and restarted before the same servers."""
    prompts = make_prompts(24)
    urls = [s.url for s in servers]
    router = GlobalRouter(urls, log_path=tmp_path / "router.log", request_timeout_s=60)
    router.start()
    control = RouterControl(router.url)
    assert [worker["load"] for worker in control.workers()] == [0, 0]  # what others leave free

    def revive(lost: SglangServer) -> None:
        control.remove(lost.url)
        lost.restart()
        publish(lost, trained)
        control.add(lost.url)

    config = ServersConfig(**SERVERS, servers_per_replica=2, routing="global", hang_timeout_s=10.0)
    engine = RoutedEngine(
        servers,
        config,
        vocab_size=VOCAB_SIZE,
        is_deterministic=True,
        router_url=router.url,
        all_urls=urls,
        on_server_lost=revive,
        on_router_lost=router.restart,
    )
    verifier = FakeVerifier(a_third_is_correct)
    controller = RolloutController(
        engine,
        verifier,
        RolloutConfig(**{**ROLLOUT, "max_response_tokens": 64}),
        config,
        run_seed=3,
        stop_token_ids=(STOP_TOKEN_ID,),
        max_context_tokens=MAX_CONTEXT_TOKENS,
        vocab_size=VOCAB_SIZE,
    )
    path = tmp_path / "dp00.jsonl"
    start = read_counters(urls[0])  # other tests used this process
    first_process = servers[0].num_restarts
    restarts = [s.num_restarts for s in servers]

    def a_step(group=None, with_signal: int = signal.SIGKILL) -> list[list[list[int]]]:
        verified = len(verifier.verified)
        killer = group and kill_when(
            lambda: len(verifier.verified) >= verified + 5, group, with_signal
        )
        groups = controller.collect(prompts, step=5, policy_version=VERSION).groups
        if killer:
            killer.join(60)
        return [tokens_of(group) for group in groups]

    try:
        undisturbed = a_step()
        expected = list(verifier.verified)
        assert {name for name, _ in engine.usage} == {"dp0.s0", "dp0.s1"}
        assert a_step(lambda: servers[1].process_group, signal_number) == undisturbed
        assert [s.num_restarts - r for s, r in zip(servers, restarts, strict=True)] == [0, 1]
        lost_with_the_server = engine.usage[NOBODY].lost_requests
        assert {w["url"] for w in control.workers() if w["is_healthy"]} == set(urls)
        assert a_step(lambda: router.process_group) == undisturbed
        assert router.num_restarts == 1
        assert {w["url"] for w in control.workers() if w["is_healthy"]} == set(urls)
        assert a_step() == undisturbed
    finally:
        controller.close()
        router.stop()
    assert sorted(verifier.verified) == sorted(4 * expected)  # nothing lost, nothing twice
    # who answered stands in the answer, so the books of both living processes come out one by one
    lost = engine.usage[NOBODY]
    assert 0 < lost_with_the_server < lost.lost_requests and lost.requests == 0
    assert sum(u.requests for u in engine.usage.values()) == 4 * len(expected)
    kept = engine.usage[("dp0.s0", first_process)]
    assert read_counters(urls[0]).requests - start.requests - kept.requests >= 0
    books = [b for b in server_books(engine) if b.server == "dp0.s1"]
    Ledger(path, lambda: books, seen=lambda: ServerUsage()).reconcile(step=5)
    (row,) = rows_of(path, "lost_server")
    assert (row["server"], row["restarts"]) == ("dp0.s1", servers[1].num_restarts - 1)


def tokens_of(group) -> list[list[int]]:
    return [scored.response.token_ids.tolist() for scored in group.responses]


@pytest.mark.parametrize("routing", ["local", "global"])
def test_the_second_sample_of_a_prompt_finds_its_prefix(servers, tmp_path, routing, monkeypatch):
    """Two requests at a time, so that no server is busy; first all first samples, then all second ones. Both samples of
    a prompt go to one server, and the second reads all but the last of its 8 prompt tokens from that server's cache. A
    blind choice would miss half of them. In the environment stands a proxy that does not exist: neither the engine nor
    the router goes to it."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    prompts = make_prompts(24, seed={"local": 21, "global": 22}[routing])
    config = ServersConfig(**{**SERVERS, "max_concurrent_requests": 2, "routing": routing})
    urls = [s.url for s in servers]
    router = GlobalRouter(urls, log_path=tmp_path / "router.log", request_timeout_s=60)
    if routing == "global":
        router.start()
        engine = RoutedEngine(
            servers,
            config,
            vocab_size=VOCAB_SIZE,
            is_deterministic=True,
            router_url=router.url,
            all_urls=urls,
        )
    else:
        engine = SglangEngine(servers, config, vocab_size=VOCAB_SIZE, is_deterministic=True)
    controller = RolloutController(
        engine,
        FakeVerifier(lambda prompt, response: False),
        RolloutConfig(num_stages=2, responses_per_stage=1, max_response_tokens=1),
        config,
        run_seed=3,
        stop_token_ids=(STOP_TOKEN_ID,),
        max_context_tokens=MAX_CONTEXT_TOKENS,
        vocab_size=VOCAB_SIZE,
    )
    try:
        groups = controller.collect(prompts, step=1, policy_version=VERSION).groups
    finally:
        controller.close()
        router.stop()
    pairs = [(group.responses[0].response, group.responses[1].response) for group in groups]
    assert {first.server for first, _ in pairs} == {"dp0.s0", "dp0.s1"}
    assert [a.server for a, _ in pairs] == [b.server for _, b in pairs]
    assert [b.num_cached_tokens for _, b in pairs] == [7] * 24
    assert sum(a.num_cached_tokens for a, _ in pairs) < 24 * 3
