"""Weights arrive whole, by each of the three ways: after a publish the server's log-probs of its own samples are the
actor's; and the check itself is checked, by leaving out each tensor in turn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from harness.publish_stage import TRANSPORTS, BreakingTransport, Poison, SpoilingTransport, Stage

from megatron_ar3po.colocation import SERVER_PARTS, TakingTurns
from megatron_ar3po.interfaces import WeightPublishError
from megatron_ar3po.servers.control import ServerControl
from megatron_ar3po.servers.external_server import ExternalServer

# A trainer that is killed in a publish, with the KV cache released as on a GPU.
KILLED_IN_A_PUBLISH = """
import os, signal, sys
from megatron_ar3po.http_client import request
from megatron_ar3po.servers.lease import take_lease
lease = take_lease(sys.argv[1], "the run before")
for route, body in (
    ("/release_memory_occupation", {"tags": ["kv_cache"]}),
    ("/pause_generation", {"mode": "abort"}),
    ("/begin_weight_update", {"selector": "all"}),
):
    assert request("POST", sys.argv[1] + route, json=body, timeout_s=60).status == 200, route
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def stage(tiny_task, tmp_path_factory):
    with ExitStack() as stack:
        yield Stage(
            stack,
            str(tiny_task / "model"),
            tmp_path_factory.mktemp("publish"),
            bucket_bytes=200_000,
            vocab_size=20,
        )


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_poisoned_server_agrees_with_the_actor_after_a_publish(stage, transport):
    stage.poison()
    assert stage.largest_difference(stage.publish(stage.actor, transport)) <= 1e-4


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_bucket_that_is_corrupted_on_its_way_is_caught_by_its_checksum(stage, transport):
    """One element of one tensor."""
    spoiling = SpoilingTransport(
        stage.transports[transport], "model.layers.1.mlp.up_proj.weight", (3, 5)
    )
    stage.publish(stage.actor, transport, verify=True)  # undisturbed it passes
    with pytest.raises(
        WeightPublishError, match=r"1 tensors: .*layers\.1\.mlp\.gate_up_proj\.weight differs"
    ):
        stage.publish(stage.actor, spoiling, verify=True)
    stage.publish(stage.actor, transport, verify=True)  # and the server takes the next one


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_publish_that_breaks_in_the_middle_is_done_once_more(stage, transport):
    """The session that the first try left open is ended, and half its weights are replaced."""
    stage.poison()
    breaking = BreakingTransport(stage.transports[transport])
    version = stage.publish(stage.actor, breaking, verify=True)
    assert breaking.num_sent > 3
    assert stage.largest_difference(version) <= 1e-4


def test_a_server_that_forgot_its_group_gets_a_new_one(stage):
    """What a revived server is to the broadcast: the old group is left behind and another is made."""
    transport = stage.transports["distributed"]
    stage.publish(stage.actor, "distributed")
    before = transport._name
    transport.forget(stage.server.url)
    stage.poison()
    assert stage.largest_difference(stage.publish(stage.actor, "distributed")) <= 1e-4
    assert transport._name != before


def test_poison_alone_is_seen(stage):
    stage.poison()
    version = next(stage.versions) - 1
    assert stage.largest_difference(version) > 1.0


def test_each_single_tensor_that_is_not_sent_is_seen(stage):
    names = [name for bucket in stage.actor.hf_buckets(1 << 30) for name, _ in bucket]
    assert len(names) == 26  # 2 layers of 12, the tied embedding, the last norm
    for left_out in names:
        stage.poison()
        version = stage.publish(
            Poison(
                stage.actor,
                lambda name, t, left_out=left_out: (name, t) if name != left_out else None,
            )
        )
        assert stage.largest_difference(version) > 1e-4, f"{left_out} was not sent and nobody saw"


def test_agreement_holds_after_the_policy_has_moved(stage):
    """The weights of the actor, not those of the checkpoint both have started from."""
    with torch.no_grad():
        for parameter in stage.actor.policy.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    stage.poison()
    assert stage.largest_difference(stage.publish(stage.actor)) <= 1e-4


def test_a_server_whose_trainer_died_in_a_publish_serves_the_next_run_within_seconds(stage):
    """Not here: in-flight requests, a living holder, servers without a lease (tests/unit/servers/test_left_behind)."""
    stage.poison()
    url = stage.server.url
    killed = subprocess.run([sys.executable, "-c", KILLED_IN_A_PUBLISH, url], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    lines: list[str] = []
    attached = ExternalServer(
        url,
        name="publish",
        arguments={"model_path": str(Path(stage.config.model.path).resolve())},
        tensor_parallel_size=1,
        timeout_s=60.0,
        publish_timeout_s=60.0,
        client="this run",
        report=lines.append,
    )
    assert attached.wait_ready() < 20  # a second or two on a quiet machine
    assert lines == [
        f"server publish at {url} was left behind by the run before: its memory (kv_cache) was woken, its "
        "weight-update session was ended, generation was continued."
    ]
    assert stage.largest_difference(stage.publish(stage.actor)) <= 1e-4
    attached.release()


def test_a_server_that_dies_while_the_actor_trains_is_replaced_by_the_next_publish(stage):
    """SIGKILL of all its processes between two publishes; nobody spoke to it meanwhile. The broadcast group it was in
    is left behind as well. Not here: a router before the servers, sleeping GPU memory (tests/unit/test_colocation)."""
    control = ServerControl(
        [stage.server], timeout_s=60, restarted=stage.transports["distributed"].forget
    )
    colocation = TakingTurns(control, stage.ranks.run_on_leader)
    control.sleep(sorted(SERVER_PARTS))  # as a server that is attached at the start of a run
    colocation.admit_servers(stage.actor)
    colocation.enter_sync_phase()
    stage.publish(stage.actor, "distributed")
    colocation.enter_train_phase()
    os.killpg(stage.server.process_group, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while stage.server.is_running() and time.monotonic() < deadline:
        time.sleep(0.05)
    before = stage.server.num_restarts
    colocation.enter_sync_phase()
    for transport in TRANSPORTS:
        with torch.no_grad():
            for parameter in stage.actor.policy.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        assert stage.largest_difference(stage.publish(stage.actor, transport)) <= 1e-4
    assert stage.server.num_restarts == before + 1
    colocation.enter_rollout_phase()  # as the next test wants it
