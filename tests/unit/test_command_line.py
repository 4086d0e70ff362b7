"""What a user types first."""

import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from megatron_ar3po.cli import main
from megatron_ar3po.config.load import to_yaml
from megatron_ar3po.run.facts import RunFacts, write_facts
from megatron_ar3po.run.folder_format import write_format
from megatron_ar3po.run.upgrade import upgrade_run
from megatron_ar3po.train import read_arguments


@pytest.fixture
def config(tmp_path, tiny_task):
    (tmp_path / "train.jsonl").write_text((tiny_task / "train.jsonl").read_text())
    file = tmp_path / "config.yaml"
    file.write_text(
        f"model: {{path: {tiny_task}/model}}\n"
        f"data: {{path: {tmp_path}/train.jsonl, max_prompt_tokens: 16}}\n"
        "rollout: {max_response_tokens: 8}\n"
    )
    return str(file)


def test_a_dry_run_prints_config_layout_and_arithmetic(config, capsys):
    """16 prompts of 4 to 8 responses: 64 to 128 a step."""
    assert main(["train", config, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "num_stages: 2" in out
    assert "tp 1 x pp 1 x dp 1 = 1 ranks" in out
    assert "16 prompts, 64 to 128 responses" in out


def test_a_dry_run_may_leave_the_prompts_unread_and_a_run_may_not(config, tmp_path, capsys):
    (tmp_path / "train.jsonl").write_text("no JSON\n")
    assert main(["train", config, "--dry-run"]) == 2
    assert main(["train", config, "--dry-run", "--no-data"]) == 0
    assert main(["train", config, "--no-data"]) == 2
    assert main(["train", config, "--dry-run", "--no-data", "--show-prompts", "1"]) == 2
    said = [line.partition(": error: ")[2] for line in capsys.readouterr().err.splitlines()]
    assert "train.jsonl:1" in said[0]
    assert said[1:] == [
        "--no-data leaves the prompts unread, and a run needs them; add --dry-run.",
        "--show-prompts needs the prompts that --no-data leaves unread; drop one.",
    ]


def test_a_dry_run_of_a_resume_says_what_it_would_change(config, tmp_path, capsys):
    words = ["train", config, "--dry-run", f"run.dir={tmp_path}/run", "run.resume=true"]
    assert main(words) == 0
    assert "at this resume" not in capsys.readouterr().out  # there is no run yet
    (tmp_path / "run").mkdir()
    (tmp_path / "run/resolved_config.yaml").write_text(to_yaml(read_arguments(words[1:2])))
    write_format(tmp_path / "run")
    assert main([*words, "actor.learning_rate=0.5"]) == 0
    changed = "# changed at this resume: actor.learning_rate was 1.0e-06 and is 0.5 now"
    assert changed in capsys.readouterr().out
    assert main([*words, "run.seed=9"]) == 2
    assert "  run.seed was 0 and is 9 now\n" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "resolved_config.yaml",
        "version.json",
    ]


def test_a_dry_run_shows_prompts_as_the_policy_will_read_them(old_run, capsys):
    """A real model's folder and its prompts; of a resume, with the date of its run."""
    words = ["train", str(old_run / "resolved_config.yaml"), "--show-prompts", "2"]
    upgrade_run(old_run)
    assert main(words) == 2
    assert "add --dry-run" in capsys.readouterr().err
    (Path("model") / "chat_template.jinja").write_text(
        "{{ strftime_now('%y') }}{{ messages[0].content.replace('xx', '') }}"
    )
    write_facts(old_run, RunFacts(rendered_at=datetime(2001, 1, 1)))
    dry = [
        *words,
        "--dry-run",
        "data.apply_chat_template=true",
        "run.allow_changed=[data.apply_chat_template]",
    ]
    assert main(dry) == 0
    out = capsys.readouterr().out
    shown = [line for line in out.splitlines() if line.startswith(("# prompt ", "#     |"))]
    assert shown[0].startswith("# prompt 1 of 6: ") and shown[2].startswith("# prompt 2 of 6: ")
    year = f"{datetime.now():%y}"
    assert shown[1].startswith(f"#     | {year}") and len(shown) == 4
    assert main([*dry, "run.resume=true"]) == 0
    assert "#     | 01" in capsys.readouterr().out
    for weights in Path("model").glob("*.safetensors"):
        weights.unlink()
    assert main(dry) == 2, "no run, but the tokenizer is there"
    captured = capsys.readouterr()
    assert "# prompt 2 of 6: " in captured.out and "no *.safetensors" in captured.err
    assert main([*dry, "data.path=gone.jsonl"]) == 2
    assert "data.path=gone.jsonl is no file" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--world-size", "--show-prompts"])
def test_a_number_of_a_dry_run_is_not_negative(config, capsys, flag):
    assert main(["train", config, "--dry-run", "--no-data", flag, "-1"]) == 2
    assert capsys.readouterr().err == f"ar3po: error: {flag} -1 is negative; use 0 or more.\n"


def test_words_may_stand_behind_an_option(config, capsys):
    assert main(["train", config, "--dry-run", "rollout.num_stages=3"]) == 0
    assert "64 to 192 responses" in capsys.readouterr().out


def test_a_typo_ends_with_one_sentence_and_code_2(config, capsys):
    assert main(["train", config, "rollout.num_stage=3"]) == 2
    assert "rollout.num_stages" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["advantage", "policy_loss"])
def test_a_dry_run_refuses_a_function_of_the_user_that_does_not_fit(config, capsys, option):
    assert main(["train", config, "--dry-run", f"algorithm.{option}=math:sin"]) == 2
    said = capsys.readouterr().err
    assert f"algorithm.{option}=math:sin" in said and "define it as: def sin(" in said


def test_an_unknown_flag_is_refused(config):
    with pytest.raises(SystemExit):
        main(["train", config, "--dryrun"])


def test_no_config_file_is_said(capsys):
    assert main(["train", "run.num_steps=3"]) == 2
    assert "no config file given" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_ends_with_one_sentence(tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text('{"gold": "1", "pred": "1"}\n')
    out = tmp_path / "no_folder" / "out.jsonl"
    assert main(["grade", "--input", str(tmp_path / "in.jsonl"), "--output", str(out)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("ar3po: error: ") and "no_folder" in said and "Traceback" not in said


@pytest.mark.parametrize("command", ["grade", "train", "plan"])
def test_output_that_nobody_reads_to_its_end_is_no_error(command, config):
    """As with `| head`: the reader is gone before the first line, which is not held back (-u)."""
    words = {
        "grade": ["--gold", "1", "--pred", "1"],
        "train": [config, "--dry-run"],
        "plan": [config, "--nodes", "1"],
    }[command]
    read_end, write_end = os.pipe()
    os.close(read_end)
    run = subprocess.run(
        [sys.executable, "-u", "-m", "megatron_ar3po.cli", command, *words],
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    os.close(write_end)
    waited_for = re.compile(r".*reading and checking the prompts of \S+: .*\n")
    assert (run.returncode, waited_for.sub("", run.stderr)) == (1, "")
