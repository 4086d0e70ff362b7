"""One of two real SGLang servers is killed in the middle of a stage. The weights are published from a folder, as the
`disk` transport does; the Megatron side of a publish is not exercised here."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.test_rollout_server import OPTIONS, a_third_is_correct, make_prompts
from fakes.tiny_model import MAX_CONTEXT_TOKENS, STOP_TOKEN_ID, VOCAB_SIZE, write_tiny_model
from fakes.verifier import FakeVerifier

from megatron_ar3po.config.schema import RolloutConfig
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.rollout.ledger import Ledger, read_counters, server_books
from megatron_ar3po.rollout.routed_engine import RoutedEngine
from megatron_ar3po.rollout.router import GlobalRouter, RouterControl
from megatron_ar3po.rollout.sglang_client import NOBODY, ServerUsage, SglangEngine
from megatron_ar3po.rollout.sglang_server import ServerPlace, SglangServer
from megatron_ar3po.types import CollectedStep

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
            RolloutConfig(**OPTIONS),
            ServerPlace(name=f"dp0.s{i}"),
            model_path=str(start),
            dtype="float32",
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
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = {"model_path": str(folder), "weight_version": str(VERSION), "flush_cache": True}
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/update_weights_from_disk", json.dumps(body), headers)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()


def make_controller(servers, verifier, on_server_lost=None, **options) -> RolloutController:
    config = RolloutConfig(**{**OPTIONS, "servers_per_replica": 2, **options})
    return RolloutController(
        SglangEngine(servers, config, vocab_size=VOCAB_SIZE, on_server_lost=on_server_lost),
        verifier,
        config,
        run_seed=3,
        stop_token_ids=(STOP_TOKEN_ID,),
        max_context_tokens=MAX_CONTEXT_TOKENS,
        vocab_size=VOCAB_SIZE,
    )


def rows_of(path: Path, kind: str) -> list[dict]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def kill_when(condition, server: SglangServer) -> threading.Thread:
    """SIGKILL of the whole process group, once the condition holds."""

    def wait_and_kill() -> None:
        deadline = time.monotonic() + 60
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.002)
        os.killpg(server.process_group, signal.SIGKILL)

    thread = threading.Thread(target=wait_and_kill)
    thread.start()
    return thread


def test_one_of_two_servers_is_killed_in_the_middle_of_a_stage(servers, trained, tmp_path):
    """Two steps before, on the same books, so that the dead process has reported something. Seeded servers give the
    same tokens whoever was lost, and other weights give others: equal tokens say that the new process holds the
    published ones."""
    prompts = make_prompts(24)
    length = {"max_response_tokens": 64}

    def revive(lost: SglangServer) -> None:
        lost.restart()
        publish(lost, trained)

    verifier = FakeVerifier(a_third_is_correct)
    controller = make_controller(servers, verifier, revive, **length)
    path = tmp_path / "dp00.jsonl"
    ledger = Ledger(path, lambda: server_books(controller.engine))

    def step(number: int, collected_step: int) -> list:
        ledger.open_step(prompts, step=number, policy_version=VERSION)
        groups = controller.collect(prompts, step=collected_step, policy_version=VERSION)
        ledger.record_step(CollectedStep(groups=tuple(groups)), step=number, policy_version=VERSION)
        return groups

    before = {s.name: s.num_restarts for s in servers}
    undisturbed = step(1, 5)
    expected = list(verifier.verified)
    verifier.verified.clear()
    killer = kill_when(lambda: len(verifier.verified) >= 5, servers[1])
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
    # the ledger came out: record_step would have raised. The dead process is one bounded row.
    (lost,) = rows_of(path, "lost_server")
    assert (lost["step"], lost["server"], lost["restarts"]) == (2, "dp0.s1", 0)
    num_lost = lost["unreported_requests_max"] - lost["unreported_requests_min"]
    assert 0 < num_lost <= 24 * 8
    assert lost["unreported_generated_tokens_max"] <= (
        lost["unreported_generated_tokens_min"] + 64 * num_lost
    )
    living = {(r["server"], r["restarts"]): r for r in rows_of(path, "server") if r["step"] == 2}
    assert set(living) == {("dp0.s0", 0), ("dp0.s1", 1)}
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
    groups = controller.collect(make_prompts(24), step=9, policy_version=VERSION)
    counts, means = controller.take_metrics()
    controller.close()
    responses = [scored.response for group in groups for scored in group.responses]
    assert {r.finish_reason for r in responses} <= {"stop", "length"}
    assert sorted(verifier.verified) == sorted(r.response_id for r in responses)
    assert counts["rollout/cancel/responses"] > 10 and counts["rollout/cancel/tokens"] > 100
    # the survivors are short: the bias that the option buys its tokens with
    assert means["rollout/cancel/winner_length_tokens"][0] > 0
    seen = sum(controller.engine.usage.values(), ServerUsage())
    assert seen.aborted_requests + seen.queue_aborts == counts["rollout/cancel/responses"]
    assert seen.aborted_generated_tokens == counts["rollout/cancel/tokens"]
    assert seen.requests == len(responses) + seen.aborted_requests
    after = [read_counters(server.url) for server in servers]
    for name in ("requests", "prompt_tokens", "cached_prompt_tokens", "generated_tokens"):
        grown = sum(getattr(a, name) - getattr(b, name) for a, b in zip(after, before, strict=True))
        assert grown == getattr(seen, name), name


def test_one_of_two_servers_behind_the_router_is_killed(servers, trained, tmp_path):
    """As above, with `rollout.routing=global`: the real sglang-router chooses the server. The lost samples are drawn by
    the other one while the dead one is restarted; the router sees it again when it holds the weights."""
    prompts = make_prompts(24)
    router = GlobalRouter(
        [s.url for s in servers], log_path=tmp_path / "router.log", request_timeout_s=60
    )
    router.start()
    control = RouterControl(router.url)

    def revive(lost: SglangServer) -> None:
        control.remove(lost.url)
        lost.restart()
        publish(lost, trained)
        control.add(lost.url)

    config = RolloutConfig(
        **{**OPTIONS, "servers_per_replica": 2, "routing": "global", "max_response_tokens": 64}
    )
    engine = RoutedEngine(
        servers,
        config,
        vocab_size=VOCAB_SIZE,
        router_url=router.url,
        all_urls=[s.url for s in servers],
        on_server_lost=revive,
    )
    verifier = FakeVerifier(a_third_is_correct)
    controller = RolloutController(
        engine,
        verifier,
        config,
        run_seed=3,
        stop_token_ids=(STOP_TOKEN_ID,),
        max_context_tokens=MAX_CONTEXT_TOKENS,
        vocab_size=VOCAB_SIZE,
    )
    start = [read_counters(server.url) for server in servers]
    try:
        undisturbed = controller.collect(prompts, step=5, policy_version=VERSION)
        expected = list(verifier.verified)
        assert {r.response.server for g in undisturbed for r in g.responses} == {"dp0.s0", "dp0.s1"}
        verifier.verified.clear()
        restarts = [s.num_restarts for s in servers]
        killer = kill_when(lambda: len(verifier.verified) >= 5, servers[1])
        disturbed = controller.collect(prompts, step=5, policy_version=VERSION)
        killer.join(60)
        assert [s.num_restarts - r for s, r in zip(servers, restarts, strict=True)] == [0, 1]
        assert {w["url"] for w in control.workers() if w["is_healthy"]} == {s.url for s in servers}
        after = controller.collect(prompts, step=5, policy_version=VERSION)
    finally:
        controller.close()
        router.stop()
    assert sorted(verifier.verified) == sorted(2 * expected)  # nothing lost, nothing twice
    for got, again, wanted in zip(disturbed, after, undisturbed, strict=True):
        assert tokens_of(got) == tokens_of(wanted) == tokens_of(again)
    # who answered stands in the answer, so the books of both living processes come out one by one
    lost = engine.usage[NOBODY]
    assert 0 < lost.lost_requests <= len(expected) and lost.requests == 0
    new = servers[1].num_restarts
    first, last = read_counters(servers[0].url), read_counters(servers[1].url)
    kept = engine.usage[("dp0.s0", servers[0].num_restarts)]
    assert 0 <= first.requests - start[0].requests - kept.requests <= lost.lost_requests
    assert last.requests == engine.usage[("dp0.s1", new)].requests > 0
    assert sum(u.requests for u in engine.usage.values()) == 3 * len(expected)
    path = tmp_path / "dp00.jsonl"
    books = [b for b in server_books(engine) if b.server == "dp0.s1"]
    ledger = Ledger(path, lambda: books, seen=lambda: ServerUsage())
    ledger.reconcile(step=5)
    (row,) = rows_of(path, "lost_server")
    assert (row["server"], row["restarts"]) == ("dp0.s1", new - 1)


def tokens_of(group) -> list[list[int]]:
    return [scored.response.token_ids.tolist() for scored in group.responses]
