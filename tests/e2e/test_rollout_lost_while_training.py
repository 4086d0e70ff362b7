"""A server is lost while the actor trains, in the real trainer: the next publish finds a fresh process, and every later
answer was sampled from the current weights."""

import json
import os

import pytest
from harness.trainer_runs import ROOT

from megatron_ar3po.colocation import ACTOR_PARTS, SERVER_PARTS
from megatron_ar3po.observability.memory_log import read_memory_log


@pytest.mark.parametrize(
    ("signal_name", "ranks"),
    [
        ("SIGKILL", 2),
        pytest.param("SIGKILL", 1, marks=pytest.mark.chaos),
        pytest.param("SIGSTOP", 1, marks=pytest.mark.chaos),
    ],
)
def test_a_server_lost_while_the_actor_trains_serves_the_next_step(
    start_run, monkeypatch, signal_name, ranks
):
    """With two replicas it is the server of the first alone: the second goes on as if nothing were."""
    monkeypatch.setenv("AR3PO_TEST_SIGNAL", signal_name)
    path = [str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    words = ["run.num_steps=3", "algorithm.advantage=fakes.killing_advantage:advantage"]
    run = start_run(*words, ranks=ranks).wait().require_success()
    assert [row["step"] for row in run.metrics] == [0, 1, 2, 3]
    # server and actor agree about every token of the step after it: the new process holds the published weights
    assert run.metrics[3]["mismatch/logprob_abs_max"] < 1e-3
    rows = [json.loads(line) for line in (run.folder / "ledger/dp00.jsonl").open()]
    lost = [row for row in rows if row["kind"] == "lost_server"]
    assert [(row["step"], row["server"], row["restarts"]) for row in lost] == [(3, "dp0.s0", 0)]
    # it had answered everything and reported it: nothing is unknown of it
    assert lost[0]["unreported_requests_max"] == lost[0]["unreported_requests_min"] == 0
    serving = [(r["step"], r["restarts"]) for r in rows if r["kind"] == "server"]
    assert serving == [(1, 0), (2, 0), (3, 1)]
    # it was started again while the actor trained, and took no memory before the actor was parked
    told = [line for line in read_memory_log(run.folder / "logs") if line["rank"] == 0]
    lines = [(line["phase"], line["holder"], line["holds"]) for line in told]
    gate = lines.index(("train", "dp0.s0", ["gate"]))
    assert lines[gate + 1 :][:4] == [
        ("train", "actor", sorted(ACTOR_PARTS)),
        ("sync", "actor", []),
        ("sync", "dp0.s0", sorted(SERVER_PARTS)),
        ("sync", "dp0.s0", []),
    ]
    assert run.processes_left() == []
