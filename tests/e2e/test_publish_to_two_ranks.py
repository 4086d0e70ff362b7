"""A publish by handles to a real server of two ranks, from a real actor of two (harness/publish_to_two_ranks.py)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from harness.trainer_runs import ROOT

TIME_LIMIT_S = 420


@pytest.fixture(scope="module")
def found(tiny_task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_ranks")
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(ROOT / "tests/harness/publish_to_two_ranks.py")]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, str(tiny_task / "model"), str(folder)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            start_new_session=True,
        )
        try:
            code = process.wait(TIME_LIMIT_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    assert code == 0, log.read_text()[-6000:]
    return json.loads((folder / "found.json").read_text())


def test_both_ranks_hold_the_actors_weights(found):
    """Every weight was poisoned before; compared by checksums, and by the log-probs of what is sampled."""
    assert found["after poison"] > 1.0
    assert found["after a publish"] <= 1e-4
    assert found["at last"] <= 1e-4


def test_each_server_rank_reads_what_its_own_rank_handed_over(found):
    """SGLang gives the first rows of up_proj to rank 0 and the last to rank 1. What the other rank's handle shows of
    them is read by nobody."""
    assert found["rank 0 spoils last"] == found["rank 1 spoils first"] == ""
    for said in (found["rank 0 spoils first"], found["rank 1 spoils last"]):
        assert "1 tensors: model.layers.1.mlp.gate_up_proj.weight differs" in said
