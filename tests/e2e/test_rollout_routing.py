"""Servers on two nodes in the real trainer. The nodes are loopback addresses of this machine."""

import json

import pytest


def rows_of(run, dp: int) -> list[dict]:
    return [json.loads(line) for line in (run.folder / f"ledger/dp0{dp}.jsonl").open()]


def test_replicas_on_two_nodes_share_their_servers_and_each_keeps_its_answers(start_run):
    """`servers.routing=global`: two replicas, each on a node of its own with one server, one router before both."""
    run = start_run("run.num_steps=2", "servers.routing=global", nodes=2).wait().require_success()
    ledgers = [rows_of(run, dp) for dp in (0, 1)]
    prompts = [[row for row in rows if row["kind"] == "prompt"] for rows in ledgers]
    positions = [(row["step"], row["position"]) for rows in prompts for row in rows]
    assert sorted(positions) == [(step, position) for step in (1, 2) for position in range(16)]
    # both servers worked, and at least one replica's prompts used the other's server
    used = [{server for row in rows for server in row["servers"]} for rows in prompts]
    assert used[0] | used[1] == {"dp0.s0", "dp1.s0"}
    assert "dp1.s0" in used[0] or "dp0.s0" in used[1]
    # each owner closed the books of its own server alone: all clients together, to the last token
    for dp, rows in enumerate(ledgers):
        books = [row for row in rows if row["kind"] == "server"]
        assert {row["server"] for row in books} == {f"dp{dp}.s0"}
        assert [row["step"] for row in books] == [1, 2]
    assert run.metrics[2]["rollout/responses_generated"] == sum(
        row["responses"] for rows in prompts for row in rows if row["step"] == 2
    )
    logs = [(run.folder / f"logs/sglang_dp{dp}.s0.log").read_text() for dp in (0, 1)]
    assert ["127.0.0.2" in logs[0], "127.0.0.3" in logs[1]] == [True, True]
    assert run.processes_left() == []


@pytest.mark.chaos
def test_a_replica_of_two_nodes_has_a_server_on_each(start_run):
    """Tensor parallel over two nodes of one rank; the weights go to both servers through a folder. The leader samples
    from the server of the other node as from its own, and the actor agrees with both about every token."""
    words = ["actor.tensor_parallel_size=2", "servers.servers_per_replica=2"]
    run = start_run("run.num_steps=2", *words, "weight_sync.transport=disk", nodes=2)
    run.wait().require_success()
    rows = rows_of(run, 0)
    prompts = [row for row in rows if row["kind"] == "prompt"]
    assert {server for row in prompts for server in row["servers"]} == {"dp0.s0", "dp0.s1"}
    # in the order in which the servers first answered
    books = sorted((r["step"], r["server"]) for r in rows if r["kind"] == "server")
    assert books == [(s, f"dp0.s{i}") for s in (1, 2) for i in (0, 1)]
    assert run.metrics[2]["mismatch/logprob_abs_max"] < 1e-3
    assert "127.0.0.3" in (run.folder / "logs/sglang_dp0.s1.log").read_text()
    assert run.processes_left() == []
