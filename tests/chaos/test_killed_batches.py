"""A real SGLang server is killed twenty times in the middle of calls for many responses (`servers.requests`)."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from e2e.test_rollout_server import (
    a_third_is_correct,
    make_prompts,
    make_server,
    set_version,
)
from fakes.tiny_model import MAX_CONTEXT_TOKENS, STOP_TOKEN_ID, VOCAB_SIZE, write_tiny_model
from fakes.verifier import FakeVerifier

from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.rollout.ledger import check_balance
from megatron_ar3po.servers.counters import server_books
from megatron_ar3po.servers.server import process_of
from megatron_ar3po.servers.sglang_engine import SglangEngine
from megatron_ar3po.servers.sglang_server import SglangServer

Form = Literal["single", "stage", "step"]

pytestmark = pytest.mark.chaos

NUM_KILLS = 20
NUM_PROMPTS = 16


def test_kills_in_the_middle_of_a_batch_lose_and_double_nothing(tmp_path: Path):
    """Each time at another number of verdicts, in calls for a stage and for a step in turn. Every response is there
    once, with the tokens of a step that nobody disturbed, and the new process has counted what this client has."""
    server = make_server(
        write_tiny_model(tmp_path / "model"), tmp_path, max_server_restarts=NUM_KILLS
    )
    server.start()
    try:
        server.wait_ready()
        set_version(server, 0)
        expected = collect(server, "single")
        moments = np.random.default_rng(0).integers(1, len(expected) - 8, NUM_KILLS)
        num_lost = [
            kill_once(server, "stage" if i % 2 else "step", int(moments[i]), expected)
            for i in range(NUM_KILLS)
        ]
        assert sum(lost > 1 for lost in num_lost) > NUM_KILLS / 2, (
            num_lost
        )  # whole calls, as a rule
    finally:
        server.stop()


def kill_once(server: SglangServer, form: Form, num_verdicts: int, expected: dict) -> int:
    """How many requests were lost with the process that was killed after so many verdicts."""
    verifier = FakeVerifier(a_third_is_correct)
    killed = process_of(server)

    def kill() -> None:
        deadline = time.monotonic() + 60
        while len(verifier.verified) < num_verdicts and time.monotonic() < deadline:
            time.sleep(0.001)
        os.killpg(server.process_group, signal.SIGKILL)

    made: list[RolloutController] = []
    killer = threading.Thread(target=kill)
    killer.start()
    groups = collect(server, form, verifier, made)
    killer.join(60)
    assert process_of(server) == (killed[0], killed[1] + 1)
    assert groups == expected
    assert len(set(verifier.verified)) == len(verifier.verified)
    assert sorted(verifier.verified) == sorted(expected)
    engine = made[0].engine
    assert isinstance(engine, SglangEngine)
    usage = engine.usage
    now = usage[process_of(server)]
    assert usage[killed].requests + now.requests == len(expected)
    assert now.lost_requests == now.unused_requests == now.aborted_requests == 0
    living = server_books(engine)[-1]
    assert living.theirs is not None
    check_balance(living.server, living.ours, living.theirs)
    return usage[killed].lost_requests


def collect(
    server: SglangServer,
    form: Form,
    verifier: FakeVerifier | None = None,
    made: list[RolloutController] | None = None,
) -> dict[str, list[int]]:
    """Tokens by response."""

    def restart(lost: SglangServer) -> None:
        lost.restart()
        set_version(lost, 0)

    config = ServersConfig(request_timeout_s=60.0, max_concurrent_requests=64, requests=form)
    engine = SglangEngine(
        [server],
        config,
        vocab_size=VOCAB_SIZE,
        is_deterministic=True,
        on_server_lost=restart,
    )
    controller = RolloutController(
        engine,
        verifier or FakeVerifier(a_third_is_correct),
        RolloutConfig(num_stages=2, responses_per_stage=4, max_response_tokens=100),
        config,
        run_seed=3,
        stop_token_ids=(STOP_TOKEN_ID,),
        max_context_tokens=MAX_CONTEXT_TOKENS,
        vocab_size=VOCAB_SIZE,
    )
    if made is not None:
        made.append(controller)
    groups = controller.collect(make_prompts(NUM_PROMPTS), step=5, policy_version=0).groups
    controller.close()
    return {
        scored.response.response_id: scored.response.token_ids.tolist()
        for group in groups
        for scored in group.responses
    }
