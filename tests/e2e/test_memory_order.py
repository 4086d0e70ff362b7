"""Who holds memory when, in whole runs of two replicas with a server each: what the run writes down, held against what
each server's own process says of its gate. Not seen here: how many bytes that is on a GPU (docs/gpu.md)."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import pytest

from megatron_ar3po.colocation import ACTOR_PARTS, PHASES, SERVER_PARTS
from megatron_ar3po.observability.memory_log import read_memory_log

SERVERS = ("dp0.s0", "dp1.s0")  # of rank 0 and of rank 1
WORDS = ["checkpoint.every_steps=1", "evaluation.path="]


@pytest.fixture(scope="module")
def begun_and_resumed(tmp_path_factory, module_runs) -> tuple[Path, list[list[dict]]]:
    """One folder, and the changes of the first run and of the second in the order of their times."""
    folder = tmp_path_factory.mktemp("memory") / "run"
    lines: list[dict] = []
    runs = []
    for number, words in enumerate((["run.num_steps=1"], ["run.num_steps=2", "run.resume=true"])):
        run = module_runs(*WORDS, *words, f"run.dir={folder}", ranks=2).wait().require_success()
        assert [row["step"] for row in run.metrics][-1] == number + 1
        told = read_memory_log(folder / "logs")
        runs.append(told[len(lines) :])
        lines = told
    return folder, runs


def said(log: Path, what: str) -> list[float]:
    """When a server's process said it; whole seconds."""
    found = re.findall(rf"^\[([\d-]+ [\d:]+)[^\]]*\] {what}", log.read_text(), re.MULTILINE)
    return [datetime.fromisoformat(when).timestamp() for when in found]


@pytest.mark.parametrize("number", [0, 1], ids=["new", "resumed"])
def test_no_server_allocates_before_the_actor_of_its_replica_is_parked(begun_and_resumed, number):
    folder, runs = begun_and_resumed
    for rank, server in enumerate(SERVERS):
        mine = [line for line in runs[number] if line["rank"] == rank]
        assert [(line["phase"], line["holder"], line["holds"]) for line in mine[:5]] == [
            ("start", server, ["gate"]),
            ("start", "actor", sorted(ACTOR_PARTS)),
            ("start", "actor", []),
            ("start", server, sorted(SERVER_PARTS)),
            ("start", server, []),
        ]
        parked, admitted = mine[2]["time"], mine[3]["time"]
        log = folder / "logs" / f"sglang_{server}.log"
        (waits,) = said(log, "Gated launch waiting")[number : number + 1]
        (opened,) = said(log, "Gated launch activated")[number : number + 1]
        (loads,) = said(log, "Load weight begin")[number : number + 1]
        assert parked <= admitted < opened + 1 and parked < loads + 1 and waits <= loads


def test_a_resume_loads_its_checkpoint_before_the_gates_open(begun_and_resumed):
    folder, _ = begun_and_resumed
    loaded = re.findall(
        r"^([\d:]+).* loaded .*step_00001$", (folder / "train.log").read_text(), re.M
    )
    assert len(loaded) == 1  # only the second run had one to load
    opened = said(folder / "logs/sglang_dp0.s0.log", "Gated launch activated")[1]
    assert loaded[0] <= datetime.fromtimestamp(opened + 1).strftime("%H:%M:%S")


def test_in_every_phase_its_holders_are_those_of_the_table(begun_and_resumed):
    """From the first publish on: when the next phase begins, actor and servers hold what the last one says."""
    for lines in begun_and_resumed[1]:
        for rank, server in enumerate(SERVERS):
            mine = [line for line in lines if line["rank"] == rank]
            held: dict[str, set[str]] = {}
            phases = []
            for line, following in zip(mine, [*mine[1:], {"phase": "end"}], strict=True):
                held[line["holder"]] = set(line["holds"])
                if following["phase"] != line["phase"]:
                    phases.append(line["phase"])
                    if line["phase"] != "start":
                        table = PHASES[line["phase"]]
                        assert held == {"actor": table.actor, server: table.server}, line
            assert phases == ["start", "sync", "rollout", "train", "sync", "save"]


def test_servers_and_actor_of_a_replica_never_hold_more_than_the_widest_phase(begun_and_resumed):
    """Also between two lines of the same phase: who lets go does so first."""
    allowed = [(table.server, table.actor) for table in PHASES.values()]
    for lines in begun_and_resumed[1]:
        for rank, server in enumerate(SERVERS):
            held = {"actor": set(), server: set()}
            for line in (line for line in lines if line["rank"] == rank):
                held[line["holder"]] = set(line["holds"]) - {"gate"}
                assert any(held[server] <= s and held["actor"] <= a for s, a in allowed), line
