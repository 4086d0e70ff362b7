"""The runner, with a program of a few lines in the trainer's place."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import psutil
import pytest
import stub_trainer

from megatron_ar3po.comparison import runner
from megatron_ar3po.comparison.experiment import Experiment, Variant
from megatron_ar3po.comparison.runner import Failure, is_finished
from megatron_ar3po.comparison.template_date import template_date
from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.schema import Config
from megatron_ar3po.run.facts import RunFacts, write_facts

RunAll = Callable[..., list[Failure]]


class NamedServers:
    """Counts how often the servers of a run are asked for and thrown away."""

    def __init__(self) -> None:
        self.num_asked = self.num_discarded = 0

    def words_for(self, config: Config) -> list[str]:
        self.num_asked += 1
        return [f"servers.urls=[http://server{self.num_discarded}]"]

    def discard(self) -> None:
        self.num_discarded += 1


@pytest.fixture
def servers() -> NamedServers:
    return NamedServers()


@pytest.fixture
def run_all(servers: NamedServers) -> RunAll:
    def run(
        experiment: Experiment, out: Path, wait: Callable[[], None] = lambda: time.sleep(0.05)
    ) -> list[Failure]:
        return runner.run_all(
            experiment, out, is_quiet=True, main=stub_trainer.main, servers=servers, wait=wait
        )

    return run


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    config = tmp_path / "config.yaml"
    config.write_text("evaluation: {path: held_out.jsonl}\n")
    return Experiment(
        config=config,
        variants=(variant("one"),),
        seeds=(0, 1),
        responses=300,
        timeout_s=30,
    )


def variant(name: str) -> Variant:
    return Variant(name=name, words=())


def lines(out: Path, name: str) -> int:
    return (out / "runs" / name / "metrics.jsonl").read_text().count("\n")


def test_runs_end_at_the_budget_and_are_not_repeated(experiment, run_all, tmp_path) -> None:
    out = tmp_path / "out"
    assert run_all(experiment, out) == []
    for name in ("one-s0", "one-s1"):
        assert (
            4 <= lines(out, name) < 50
        )  # rows 0, 100, 200, 300 and those until it saw the request
    before = (out / "runs/one-s0/metrics.jsonl").stat().st_mtime_ns
    assert run_all(experiment, out) == []
    assert (out / "runs/one-s0/metrics.jsonl").stat().st_mtime_ns == before


def test_a_run_that_was_cut_short_begins_anew(experiment, run_all, tmp_path) -> None:
    out = tmp_path / "out"
    folder = out / "runs" / "one-s0"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 0, "eval/pass_at_1": 0.1}\n' * 60)
    assert run_all(experiment, out) == []
    assert lines(out, "one-s0") < 50


def test_a_run_that_fails_is_named_and_the_others_go_on(experiment, run_all, tmp_path) -> None:
    variants = (variant("broken"), *experiment.variants)
    mixed = replace(experiment, variants=variants, seeds=(0,))
    [failure] = run_all(mixed, tmp_path / "out")
    assert failure.run == "broken-s0"
    assert "exit code 3" in failure.reason and "broken-s0.log" in failure.reason
    assert is_finished(mixed, tmp_path / "out", experiment.variants[0], 0)
    assert not is_finished(mixed, tmp_path / "out", variants[0], 0)


def test_a_run_beyond_its_time_limit_is_ended(experiment, run_all, tmp_path) -> None:
    endless = replace(experiment, variants=(variant("endless"),), seeds=(0,), timeout_s=0.5)
    [failure] = run_all(endless, tmp_path / "out")
    assert "timeout_s=0.5 s" in failure.reason


def test_a_run_that_ends_before_its_budget_does_not_count(experiment, run_all, tmp_path) -> None:
    """50 rows come to 4,900 responses."""
    greedy = replace(experiment, seeds=(0,), responses=5000)
    [failure] = run_all(greedy, tmp_path / "out")
    assert "before 5000 responses" in failure.reason


def test_what_a_kill_made_a_run_do_again_does_not_fill_its_budget(
    experiment, run_all, tmp_path
) -> None:
    """Its last evaluation stands at 250 of 300 responses, for which it has spent 350."""
    out, variant = tmp_path / "out", experiment.variants[0]
    run_all(experiment, out)
    assert is_finished(experiment, out, variant, 0)
    row = {
        "step": 3,
        "eval/pass_at_1": 0.5,
        "rollout/responses_total": 350,
        "rollout/cost/redone_responses_total": 100,
    }
    runner.metrics_path(out, variant, 0).write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match="finished before 300 responses"):
        is_finished(experiment, out, variant, 0)


def test_runs_of_another_config_are_not_mixed(experiment, run_all, tmp_path) -> None:
    """By a word, or by the same words on a file that says something else."""
    out = tmp_path / "out"
    assert run_all(experiment, out) == []
    other = replace(experiment, common=("actor.learning_rate=1e-3",))
    with pytest.raises(
        ValueError, match=r"actor\.learning_rate is 1e-06 there and 0\.001 here.*another --out"
    ):
        run_all(other, out)
    experiment.config.write_text(
        "evaluation: {path: held_out.jsonl}\nrollout: {temperature: 0.7}\n"
    )
    with pytest.raises(ValueError, match=r"rollout\.temperature is 1\.0 there and 0\.7 here"):
        run_all(experiment, out)


def test_another_number_of_evaluations_is_another_config(experiment, run_all, tmp_path) -> None:
    """300 responses in 5 parts are evaluated every 60, in 3 every 100."""
    out = tmp_path / "out"
    run_all(experiment, out)
    with pytest.raises(ValueError, match=r"evaluation\.every_responses is 60 there and 100 here"):
        run_all(replace(experiment, evaluations=3), out)


def test_what_a_run_is_free_to_choose_makes_it_no_other_run(experiment, run_all, tmp_path) -> None:
    """How it was said, where it stands, how it is watched."""
    out = tmp_path / "out"
    run_all(experiment, out)
    experiment.config.write_text("{}")
    free = (
        "evaluation.path=held_out.jsonl",
        "observability.log_level=DEBUG",
        "run.stall_report_s=7",
    )
    said_otherwise = replace(experiment, common=free)
    assert all(is_finished(said_otherwise, out, experiment.variants[0], seed) for seed in (0, 1))


def test_a_run_that_does_not_say_its_config_is_refused(experiment, run_all, tmp_path) -> None:
    out = tmp_path / "out"
    run_all(experiment, out)
    (out / "runs/one-s0/resolved_config.yaml").write_text("rollout: {deterministic: true}\n")
    with pytest.raises(ValueError, match=r"does not say with which config.*delete .*one-s0"):
        run_all(experiment, out)


def test_runs_use_the_same_servers_until_one_of_them_fails(
    experiment, run_all, servers, tmp_path
) -> None:
    """good, broken, good: the third run gets servers that the broken one has not seen."""
    names = ("first", "broken", "last")
    mixed = replace(experiment, variants=tuple(map(variant, names)), seeds=(0,))
    run_all(mixed, tmp_path / "out")
    said = [(tmp_path / "out" / "logs" / f"{n}-s0.log").read_text().strip() for n in names]
    assert said == [
        "servers [http://server0]",
        "servers [http://server0]",
        "servers [http://server1]",
    ]
    assert servers.num_asked == 3
    assert servers.num_discarded == 2  # after the broken run, and at the end


def test_an_interrupted_experiment_leaves_no_run_and_no_server(
    experiment, run_all, servers, tmp_path
) -> None:
    def interrupt() -> None:
        [run] = multiprocessing.active_children()
        assert run.is_alive()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(experiment, tmp_path / "out", wait=interrupt)
    assert multiprocessing.active_children() == []
    assert servers.num_discarded == 1
    assert not is_finished(experiment, tmp_path / "out", experiment.variants[0], 0)


COMPARISON = """
import sys, time
from pathlib import Path
import stub_trainer
from megatron_ar3po.comparison.process import RunProcess
words = [sys.argv[1], "run.dir=" + sys.argv[2], "run.name=endless", "servers.urls=[http://none]"]
if __name__ == "__main__":
    run = RunProcess(stub_trainer.main, words, log=Path(sys.argv[3]), environment={})
    print(run._process.pid, flush=True)
    time.sleep(600)
"""


def test_a_run_does_not_outlive_a_comparison_that_is_killed(experiment, tmp_path) -> None:
    """It is forked from a process that lives on."""
    script, log = tmp_path / "comparison.py", tmp_path / "run.log"
    script.write_text(COMPARISON)
    paths = [str(Path(stub_trainer.__file__).parent), *filter(None, sys.path)]
    killed = subprocess.Popen(
        [sys.executable, script, experiment.config, tmp_path / "run", log],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        text=True,
    )
    run: psutil.Process | None = None
    deadline = time.monotonic() + 60
    try:
        assert killed.stdout is not None
        run = psutil.Process(int(killed.stdout.readline()))
        while not (log.is_file() and "servers" in log.read_text()):  # it is at work
            assert time.monotonic() < deadline
            time.sleep(0.05)
        killed.kill()
        killed.wait(10)
        while run.is_running() and run.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "it trains on"
            time.sleep(0.05)
    finally:
        killed.kill()
        if run is not None and run.is_running():
            run.kill()


def test_all_runs_of_a_comparison_render_prompts_on_one_day(experiment, run_all, tmp_path) -> None:
    """A template that writes the date: the second run of a comparison that goes on later has the first one's."""
    out = tmp_path / "out"

    def date_of(name: str) -> str:
        return load_config([out / "runs" / name / "resolved_config.yaml"]).data.template_date

    assert run_all(replace(experiment, seeds=(0,)), out) == []
    assert datetime.fromisoformat(date_of("one-s0")) <= datetime.now()
    resolved = out / "runs" / "one-s0" / "resolved_config.yaml"
    resolved.write_text(resolved.read_text().replace(date_of("one-s0"), "2001-02-03T04:05:06"))
    assert run_all(experiment, out) == []
    assert date_of("one-s1") == "2001-02-03T04:05:06"
    resolved.write_text(resolved.read_text().replace("'2001-02-03T04:05:06'", "''"))
    write_facts(resolved.parent, RunFacts(rendered_at=datetime(2002, 1, 1)))  # of a version before
    assert template_date(out) == "2002-01-01T00:00:00"
    given = replace(experiment, seeds=(2,), common=("data.template_date=2003-01-01",))
    assert run_all(given, out) == []
    assert date_of("one-s2") == "2003-01-01"
