"""`rollout.routing=global` in the real trainer: two replicas, each with a server of its own, one router before both."""

import json


def test_two_replicas_share_their_servers_and_each_keeps_its_answers(start_run):
    run = start_run("run.num_steps=2", "rollout.routing=global", ranks=2).wait().succeeded()
    ledgers = [
        [json.loads(line) for line in (run.folder / f"ledger/dp0{dp}.jsonl").open()]
        for dp in (0, 1)
    ]
    prompts = [[row for row in rows if row["kind"] == "prompt"] for rows in ledgers]
    positions = [(row["step"], row["position"]) for rows in prompts for row in rows]
    assert sorted(positions) == [(step, place) for step in (1, 2) for place in range(16)]
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
    assert run.processes_left() == []
