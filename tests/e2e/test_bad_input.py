"""What a user can get wrong ends with one clear sentence, a code that is not 0, and no process left behind."""

import json
import os
import shutil
import signal
import socket
from pathlib import Path

import pytest

GRADERS = Path(__file__).parents[1]  # fakes.graders, for workers that start from the current folder

# A run that should never get as far as training.
ONE_STEP = "run.num_steps=1"


def sentence(run) -> str:
    """The error as the user sees it: the line that starts with the command's name, to the end."""
    assert run.code != 0
    assert "Traceback" not in run.err, run.err[-3000:]
    assert "ar3po: error: " in run.err, run.err[-3000:]
    return run.err.rsplit("ar3po: error: ", 1)[1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["model.path=nowhere"], ["model.path=nowhere", "config.json"]),
        (["rollout.num_stagez=2"], ["rollout.num_stagez", "rollout.num_stages"]),
        (["actor.tensor_parallel_size=2"], ["world size 1", "tensor_parallel_size=2", "torchrun"]),
        (["algorithm.name=grpo", "reuse.enabled=true"], ["algorithm.name=grpo", "reuse.enabled"]),
        (["data.path=nowhere.jsonl"], ["data.path=nowhere.jsonl"]),
        (["data.max_prompt_tokens=4"], ["data.max_prompt_tokens=4"]),
        (["rewards.verifier=no_such:make"], ["rewards.verifier=no_such:make", "no_such"]),
        (["rollout.prompts_per_step=999"], ["rollout.prompts_per_step=999", "300 prompts"]),
        (["run.dir=/dev/null/run"], ["run.dir=/dev/null/run cannot be written", "another run.dir"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_the_config_gets_wrong_is_said_before_anything_trains(start_run, words, expected):
    run = start_run(ONE_STEP, *words).wait(120)
    said = sentence(run)
    assert all(part in said for part in expected), said
    assert run.processes_left() == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"prompt": "1+1xxxxx="}', "no answer"),
        ('{"prompt": "1+1xxxxx=", "answer": ""}', "non-empty"),
        ("not json", "not JSON"),
        ('{"prompt": "1+1=", "answer": "two"}', "no plain integer"),
    ],
    ids=["no answer", "empty answer", "no JSON", "an answer the verifier cannot read"],
)
def test_a_bad_dataset_line_is_named_by_file_and_line(
    start_run, tiny_task, tmp_path, line, expected
):
    good = (tiny_task / "train.jsonl").read_text().splitlines()[0]
    data = tmp_path / "train.jsonl"
    data.write_text(f"{good}\n{line}\n")
    run = start_run(ONE_STEP, f"data.path={data}").wait(120)
    said = sentence(run)
    assert f"{data}:2" in said and expected in said, said
    assert run.processes_left() == []
    assert not list(run.folder.rglob("sglang_*.log")), "the prompts come before the servers"
    held = run.folder / "resolved_config.yaml"  # what makes a folder a run's own
    assert not held.exists(), "once it is mended, the same command must start the run"


def test_a_port_in_use_is_named(start_run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = start_run(ONE_STEP, f"servers.port={port}").wait(120)
    assert f"servers.port={port}" in sentence(run)
    assert run.processes_left() == []


def test_a_server_that_dies_while_starting_shows_its_last_log_lines(start_run, tiny_task, tmp_path):
    """An architecture SGLang does not know: nothing but the server can notice it."""
    model = tmp_path / "model"
    shutil.copytree(tiny_task / "model", model)
    config = json.loads((model / "config.json").read_text())
    config["architectures"] = ["NoSuchArchitecture"]
    (model / "config.json").write_text(json.dumps(config))
    run = start_run(ONE_STEP, f"model.path={model}", "debug.mode=rollout_only").wait(180)
    said = sentence(run)
    assert "died while starting" in said and "NoSuchArchitecture" in said, said
    assert run.processes_left() == []


def test_a_folder_that_holds_a_run_is_not_written_over(start_run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/resolved_config.yaml").write_text("run: {}\n")
    assert "run.resume=true" in sentence(start_run(ONE_STEP).wait(120))


@pytest.fixture
def graders_are_importable(monkeypatch):
    known = [str(GRADERS), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(part for part in known if part))


@pytest.mark.usefixtures("graders_are_importable")
def test_a_verifier_that_fails_halts_the_run_before_it_teaches(start_run):
    """DAPO draws such prompts again and again, and would have nothing left to look at."""
    grader = "rewards.verifier=fakes.graders:failing"
    dapo = ["algorithm.name=dapo", "algorithm.max_sampling_rounds=1", "debug.mode=rollout_only"]
    run = start_run(ONE_STEP, grader, *dapo)
    run.wait(180)
    assert run.code != 0
    assert "the verifier failed for" in run.err and "rewards.max_error_frac=0.5" in run.err
    assert "the answer service is down" in run.err
    assert not (run.folder / "checkpoints/latest").exists()
    assert run.processes_left() == []


@pytest.mark.usefixtures("graders_are_importable")
def test_a_reward_that_is_no_number_is_named_with_its_response(start_run):
    grader = "rewards.verifier=fakes.graders:not_a_number"
    run = start_run(ONE_STEP, grader, "debug.mode=rollout_only").wait(180)
    said = sentence(run)
    assert "has reward nan" in said and "rewards.verifier" in said, said
    assert run.processes_left() == []


@pytest.mark.usefixtures("graders_are_importable")
def test_a_step_in_which_nothing_carries_signal_trains_nothing_and_says_so(start_run):
    """Every answer is right. The policy keeps its version and the run goes on."""
    run = start_run("run.num_steps=2", "rewards.verifier=fakes.graders:always_right")
    run.wait(180).require_success()
    rows = [row for row in run.metrics if row["step"] > 0]
    assert [row["group/no_signal_frac"] for row in rows] == [1.0, 1.0]
    assert not any("actor/loss" in row for row in rows)
    assert "step 1 trains nothing: " in run.err and "all_correct" in run.err
    state = json.loads((run.folder / "checkpoints/step_00002/state.json").read_text())
    assert (state["step"], state["policy_version"]) == (2, 0)


def test_ctrl_c_ends_the_step_saves_and_leaves_nothing(start_run):
    run = start_run("run.num_steps=1000", "evaluation.max_prompts=4")
    run.wait_for_step(1)
    os.killpg(run.process.pid, signal.SIGINT)
    run.wait(60).require_success()
    stopped = json.loads((run.folder / "STOPPED").read_text())
    assert stopped["step"] >= 1
    assert f"stopped after step {stopped['step']} of 1000" in run.out
    assert (run.folder / "checkpoints/latest").read_text() == f"step_{stopped['step']:05d}"
    assert run.processes_left() == []


def test_a_killed_trainer_takes_its_server_along(start_run):
    run = start_run("run.num_steps=1000", "evaluation.max_prompts=4", "debug.mode=rollout_only")
    run.wait_for_step(1)
    run.process.kill()
    run.wait(30)
    assert run.processes_left() == []
