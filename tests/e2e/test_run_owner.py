"""Two processes and one run folder: the real command, twice."""

import os
import signal


def test_a_second_process_is_refused_and_the_first_is_untouched(start_run):
    """A resume of a folder in which another process trains would take back its files. The first runs on to its end."""
    words = ["run.num_steps=1000", "evaluation.max_prompts=4", "debug.mode=rollout_only"]
    first = start_run(*words)
    first.wait_for_step(1)
    note = (first.folder / "owner.json").read_bytes()
    settings = (first.folder / "resolved_config.yaml").read_bytes()
    second = start_run(f"run.dir={first.folder}", "run.resume=true", *words).wait(60)
    assert second.code == 2
    said = f"run.dir={first.folder} has an owner (its owner.json): process {first.process.pid} on "
    assert said in second.err and "(it is running)" in second.err
    assert (first.folder / "owner.json").read_bytes() == note
    assert (first.folder / "resolved_config.yaml").read_bytes() == settings
    first.wait_for_step(first.metrics[-1]["step"] + 1)
    os.killpg(first.process.pid, signal.SIGINT)
    first.wait(60).require_success()
    assert [row["step"] for row in first.metrics] == list(range(len(first.metrics)))
    assert not (first.folder / "owner.json").exists()
