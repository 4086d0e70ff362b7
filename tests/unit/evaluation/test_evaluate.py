"""What `ar3po evaluate` makes of its words. That it samples and grades as a run does: tests/e2e/test_main_job.py."""

from __future__ import annotations

import argparse
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from megatron_ar3po import cli
from megatron_ar3po.config.command_line import parse_with_late_words
from megatron_ar3po.config.load import load_config, to_yaml
from megatron_ar3po.evaluation.cli import add_evaluate_parser, choose_sets
from megatron_ar3po.evaluation.subjects import Subject, find_subject, with_policy_of
from megatron_ar3po.run.facts import RunFacts, write_facts
from megatron_ar3po.run.folder_format import write_format
from megatron_ar3po.wiring.benchmark_sampling import benchmark_placements


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_evaluate_parser(parser.add_subparsers())
    return parse_with_late_words(parser, ["evaluate", *words])


def find_policy(arguments: argparse.Namespace) -> Subject:
    return find_subject(
        arguments.policy,
        checkpoint=arguments.checkpoint,
        files=arguments.config,
        words=arguments.overrides,
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two checkpoints, the newest one step 20, nothing exported."""
    folder = tmp_path / "runs" / "mine"
    for step in ("step_00010", "step_00020"):
        (folder / "checkpoints" / step / "model").mkdir(parents=True)
        (folder / "checkpoints" / step / "state.json").write_text("{}")
    (folder / "checkpoints" / "latest").write_text("step_00020")
    config = load_config([], ["model.path=base", "evaluation.path=held.jsonl", "run.seed=7"])
    (folder / "resolved_config.yaml").write_text(to_yaml(config))
    write_format(folder)
    return folder


def hf_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    return path


def test_a_run_stands_for_its_newest_checkpoint_then_for_what_it_exported(run):
    policy = find_policy(parse(str(run)))
    assert policy.checkpoint == run / "checkpoints/step_00020/model"
    assert (policy.hf_folder, policy.config.run.seed) == (Path("base"), 7)
    named = find_policy(parse(str(run), "--checkpoint=step_00010"))
    assert named.checkpoint == run / "checkpoints/step_00010/model"
    exported = hf_folder(run / "hf")
    policy = find_policy(parse(str(run)))
    assert (policy.checkpoint, policy.hf_folder) == (None, exported)


def test_a_run_is_evaluated_with_the_date_of_its_own_prompts(run):
    """A chat template may write it. Of a run that does not say it, and of any other folder, it is today's."""
    before = datetime.now()
    assert find_policy(parse(str(run))).rendered_at >= before
    first_start = datetime(2026, 11, 27, 23, 59)
    write_facts(run, RunFacts(rendered_at=first_start))
    assert find_policy(parse(str(run))).rendered_at == first_start
    hf_folder(run / "hf")
    assert find_policy(parse(str(run))).rendered_at == first_start
    assert find_policy(parse(str(run / "hf"))).rendered_at >= before


def test_a_damaged_checkpoint_is_not_evaluated(run):
    (run / "checkpoints/step_00020/state.json").unlink()
    with pytest.raises(ValueError, match=r"step_00020/state\.json is missing .* name another che"):
        find_policy(parse(str(run)))


def test_the_benchmark_takes_the_place_of_the_training_prompts(tmp_path):
    data = tmp_path / "math500.jsonl"
    data.write_text("{}")
    model = hf_folder(tmp_path / "model")
    words = parse(str(model), f"--data={data}", "--samples=8", "evaluation.temperature=0.6")
    subject = find_policy(words)
    [found] = choose_sets(subject.config, words)
    evaluation = found.config.evaluation
    assert (found.name, found.config.data.path) == ("math500", str(data))
    assert (evaluation.samples_per_prompt, evaluation.temperature) == (8, 0.6)
    config = with_policy_of(subject.config, subject, tmp_path / "out")
    assert (config.model.path, config.run.path) == (str(model), tmp_path / "out")


def test_what_is_no_policy_or_has_no_benchmark_is_refused(run, tmp_path, capsys):
    model = hf_folder(tmp_path / "model")
    for words, message in {
        (str(tmp_path),): "is neither a run (no resolved_config.yaml) nor a Hugging Face folder",
        (str(run), "--checkpoint=step_00030"): "it has step_00010, step_00020",
        (str(model),): "no benchmark: name one by --data FILE",
        (str(run),): "evaluation.path=held.jsonl is no file",
        (str(model), "--data=held.jsonl"): "--data held.jsonl is no file",
        ("http://127.0.0.1:1",): "the prompts need its tokenizer",
    }.items():
        assert cli.main(["evaluate", *words]) == 2
        assert message in capsys.readouterr().err


def test_a_runs_own_folder_is_no_place_for_a_result(run, tmp_path, capsys):
    """What an evaluation before has left in its folder goes, the ledger among it."""
    data = tmp_path / "data.jsonl"
    data.write_text("{}")
    assert cli.main(["evaluate", str(run), f"--data={data}", f"--out={run}"]) == 2
    assert f"--out {run} is a run, whose ledger would go" in capsys.readouterr().err


def test_one_name_does_not_stand_for_the_weights_of_two_servers(tmp_path, capsys):
    """The second's answers would be those that were kept of the first, and their difference 0."""
    data = tmp_path / "data.jsonl"
    data.write_text("{}")
    words = ["http://a:1", "--against=http://b:1", "--weights=mine", f"--data={data}"]
    words += [f"model.path={tmp_path}", f"--out={tmp_path}/out", f"--store={tmp_path}/items"]
    assert cli.main(["evaluate", *words]) == 2
    assert "--weights mine says what one server serves" in capsys.readouterr().err


def test_a_server_has_a_gpu(tmp_path):
    words = parse(str(hf_folder(tmp_path / "model")), f"--data={__file__}", "--server-tp=-1")
    with pytest.raises(ValueError, match=r"^--server-tp -1 must be at least 1\.$"):
        choose_sets(find_policy(words).config, words)


def test_the_gpus_of_a_node_are_shared_out_to_servers():
    eight = [str(gpu) for gpu in range(8)]
    assert [p.gpu_ids for p in benchmark_placements(eight, 4)] == [tuple("0123"), tuple("4567")]
    assert len(benchmark_placements([], 8)) == 1
    with pytest.raises(ValueError, match="server of 8 GPUs does not fit the 4 GPUs"):
        benchmark_placements(eight[:4], 8)


def test_no_samples_are_refused(tmp_path):
    words = parse(str(hf_folder(tmp_path / "model")), f"--data={__file__}", "--samples=0")
    with pytest.raises(ValueError, match=r"evaluation.samples_per_prompt=0 is out of range"):
        choose_sets(find_policy(words).config, words)


def test_a_benchmark_that_cannot_be_graded_is_refused_before_anything_starts_or_is_removed(
    tiny_task, tmp_path
):
    """No server, no conversion of the checkpoint; and the books of an evaluation before stay where they are."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "1+1=", "answer": 2}\n')
    books = tmp_path / "out" / "ledger" / "dp00.jsonl"
    books.parent.mkdir(parents=True)
    books.write_text("{}\n")
    words = [f"{tiny_task}/model", f"--data={bad}", f"--out={tmp_path}/out"]
    words.append(f"--store={tmp_path}/items")
    done = subprocess.run(
        [sys.executable, "-m", "megatron_ar3po.cli", "evaluate", *words],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, books.read_text()) == (2, "{}\n")
    assert f"{bad}:1: the answer 'answer' is 2" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ledger"]


def test_a_run_is_evaluated_on_its_held_out_prompts_and_its_suites(tmp_path, run):
    held, mine = tmp_path / "held.jsonl", tmp_path / "mine.jsonl"
    held.write_text("{}")
    mine.write_text("{}")
    suite = tmp_path / "suite.yaml"
    suite.write_text(f"sets: {{mine: {{path: {mine}, samples: 3}}}}")
    config = load_config([], [f"evaluation.path={held}", f"evaluation.suites=[{suite}]"])
    found = choose_sets(config, parse(str(run)))
    assert [(s.name, s.config.data.path) for s in found] == [
        ("heldout", str(held)),
        ("mine", str(mine)),
    ]
    [named] = choose_sets(config, parse(str(run), f"--suite={suite}", "--samples=7"))
    assert (named.name, named.config.evaluation.samples_per_prompt) == ("mine", 7)
    with pytest.raises(ValueError, match="must each have a name of their own"):
        choose_sets(config, parse(str(run), f"--suite={suite}", f"--suite={suite}"))
