"""A resume that is refused, as a user meets it: the run that was done is still done, and goes on once it is mended."""

import json
import shutil

import pytest

LOGS = ("train.log", "status", "logs")  # they go on


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in LOGS
    }


def test_a_refused_resume_leaves_the_run_as_it_was_and_a_mended_one_goes_on(
    start_run, tiny_task, tmp_path
):
    """Another seed; a prompt is removed from the data; then the marker of the newest checkpoint is lost. The run as it
    was is still done, and more steps may be asked of it."""
    data = tmp_path / "train.jsonl"
    shutil.copy(tiny_task / "train.jsonl", data)
    words = [f"data.path={data}", "run.resume=true", "actor.lr_warmup_steps=0"]
    run = start_run("run.num_steps=2", *words).wait().require_success()
    done = contents(run.folder)
    assert json.loads(done["DONE"])["step"] == 2

    refused = start_run("run.num_steps=2", "run.seed=9", *words).wait()
    assert refused.code == 2 and "run.seed was 0 and is 9 now" in refused.err
    assert contents(run.folder) == done

    same = start_run("run.num_steps=2", *words).wait().require_success()
    assert "is DONE after step 2: raise run.num_steps to go on" in same.err
    assert contents(run.folder) == done

    prompts = data.read_text()
    data.write_text("".join(prompts.splitlines(keepends=True)[1:]))
    refused = start_run("run.num_steps=3", *words).wait()
    assert refused.code == 2 and "data.path (prompts) was 300 with checksum " in refused.err
    assert contents(run.folder) == done

    data.write_text(prompts)
    marker = run.folder / "checkpoints/latest"
    marker.rename(tmp_path / "latest")
    refused = start_run("run.num_steps=3", *words).wait()
    assert refused.code == 2 and "write the name of the one to go on from into it" in refused.err
    shutil.copy(tmp_path / "latest", marker)
    assert contents(run.folder) == done

    words += ["actor.learning_rate=0.002", "checkpoint.keep_last=3"]
    run = start_run("run.num_steps=3", *words).wait().require_success()
    warned = [line for line in run.err.splitlines() if "changed at this resume" in line]
    assert len(warned) == 1 and warned[0].endswith(
        "actor.learning_rate was 0.00018 and is 0.002 now"
    )
    assert json.loads((run.folder / "run_facts.json").read_text())["changes"] == [
        {"after_step": 2, "option": "actor.learning_rate", "old": 0.00018, "new": 0.002}
    ]
    assert run.metrics[-1]["actor/learning_rate"] == pytest.approx(0.002)
    assert [row["step"] for row in run.metrics] == [0, 1, 2, 3]
    assert json.loads((run.folder / "DONE").read_text())["step"] == 3
