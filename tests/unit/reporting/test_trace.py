"""`ar3po trace RUN STEP`: who waited for whom, from the events of all ranks."""

import doctest
import json

from megatron_ar3po.cli import main
from megatron_ar3po.observability.step_events import StepEvents
from megatron_ar3po.reporting import chrome_trace
from megatron_ar3po.reporting.chrome_trace import make_trace

# Rank 1 began 0.5 s later. Rank 0 rolls out for 4 s: one request, then two at once, none in the last second.
RANKS = [
    StepEvents(
        step=3, rank=0, host="a", began=50.0,
        events=[
            ("span", 0, 4_000_000, "rollout", ""),
            ("http", 0, 1_000_000, "s3.p0.1.0", ""),
            ("served", 100_000, 900_000, "s3.p0.1.0", "dp0.s0"),
            ("verifier", 1_000_000, 500_000, "s3.p0.1.0", ""),
            ("http", 1_500_000, 1_500_000, "s3.p0.2.0", ""),
            ("served", 2_000_000, 1_000_000, "s3.p0.2.0", "dp0.s0"),
            ("served", 2_000_000, 1_000_000, "s3.p0.2.1", "dp0.s0"),
        ],
    ),
    StepEvents(step=3, rank=1, host="b", began=50.5, events=[("span", 0, 10, "update", "")]),
]  # fmt: skip


def test_the_worked_examples_hold():
    results = doctest.testmod(chrome_trace)
    assert results.attempted and not results.failed


def test_every_rank_server_prompt_request_and_verdict_has_its_group():
    trace = make_trace(RANKS)
    events = trace["traceEvents"]
    names = {
        e["pid"]: e["args"]["name"]
        for e in events
        if e["ph"] == "M" and e["name"] == "process_name"
    }
    assert sorted(names.values()) == [
        "prompts of rank 0", "rank 0 on a", "rank 1 on b", "requests of rank 0", "server dp0.s0",
        "verdicts of rank 0",
    ]  # fmt: skip
    found = [
        (names[e["pid"]], e["tid"], e["ts"], e["dur"], e["name"]) for e in events if e["ph"] == "X"
    ]
    assert ("rank 1 on b", 0, 500_000, 10, "update") in found  # by its own clock
    assert ("prompts of rank 0", 0, 0, 1_500_000, "prompt 0, stage 1") in found
    assert ("prompts of rank 0", 0, 1_500_000, 1_500_000, "prompt 0, stage 2") in found
    assert ("server dp0.s0", 1, 2_000_000, 1_000_000, "s3.p0.2.1") in found  # beside the other
    counted = [(e["ts"], e["args"]["requests"]) for e in events if e["ph"] == "C"]
    assert counted == [(100_000, 1), (1_000_000, 0), (2_000_000, 2), (3_000_000, 0)]


def write_step(run, ranks):
    (run / "trace").mkdir(parents=True)
    for one in ranks:
        path = run / f"trace/step_{one.step:05d}.rank{one.rank:04d}.json"
        path.write_text(json.dumps(one._asdict()))


def test_the_command_writes_the_newest_step_and_says_how_busy_the_servers_were(
    tmp_path, capsys, monkeypatch
):
    """1.9 s of 4 s with a request, 0.9 + 2 x 1 s of requests in all, and nothing in the last second."""
    monkeypatch.chdir(tmp_path)
    write_step(tmp_path / "run", RANKS)
    assert main(["trace", "run"]) == 0
    said = capsys.readouterr().out
    assert "step 3: 2 ranks, 1 servers" in said
    assert "3 requests in 4.00 s of rollout, one or more for 48% of it" in said
    assert "0.7 at once on the mean; the last ended 1.00 s before it" in said
    trace = json.loads((tmp_path / "trace_00003.json").read_text())
    assert trace["otherData"] == {"step": 3, "ranks": 2}


def test_a_run_without_events_is_told_what_to_do(tmp_path, capsys):
    assert main(["trace", str(tmp_path), "4"]) == 2
    assert "observability.trace_last_steps=0" in capsys.readouterr().err
