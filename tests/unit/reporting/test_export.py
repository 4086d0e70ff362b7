"""What `ar3po export` writes beside the weights, and what it refuses. That the weights are the run's:
tests/e2e/test_main_job.py."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from megatron_ar3po import cli
from megatron_ar3po.config.load import load_config, to_yaml
from megatron_ar3po.reporting.export import find_checkpoint, make_generation_config
from megatron_ar3po.reporting.model_card import Exported, make_card
from megatron_ar3po.run.facts import RunFacts, write_facts
from megatron_ar3po.run.folder_format import write_format


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Checkpoints of steps 2 and 4, evaluated before the first step and after each second one."""
    folder = tmp_path / "runs" / "mine"
    for step in (2, 4):
        (folder / f"checkpoints/step_{step:05d}/model").mkdir(parents=True)
        (folder / f"checkpoints/step_{step:05d}/state.json").write_text("{}")
    (folder / "checkpoints/latest").write_text("step_00004")
    words = ["run.name=mine", "run.num_steps=4", "model.path=base", "rollout.temperature=0.9"]
    (folder / "resolved_config.yaml").write_text(to_yaml(load_config([], words)))
    write_format(folder)
    facts = {"data.path (prompts)": "512 with checksum 5a0c", "packages (commit)": "3c38376"}
    write_facts(folder, RunFacts(rendered_at=datetime(2026, 11, 29), values=facts))
    rows = [
        {"step": 0, "eval/pass_at_1": 0.25, "eval/prompts": 16, "eval/tokens": 99},
        {"step": 1, "actor/loss": 1.0},
        {"step": 2, "eval/pass_at_1": 0.5, "eval/prompts": 16},
        {"step": 4, "eval/pass_at_1": 0.75, "eval/set/aime/maj_at_8": 0.125},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def card_of(run: Path, step: int) -> str:
    config = load_config([run / "resolved_config.yaml"])
    return make_card(Exported(run=run, config=config, step=step, checksum="c0ffee"))


def test_a_card_holds_config_data_figures_and_commit(run):
    card = card_of(run, 4)
    assert "# mine, step 4" in card
    assert "| weights | checksum `c0ffee` |" in card
    assert "| `data.path (prompts)` | 512 with checksum 5a0c |" in card
    assert "| `packages (commit)` | 3c38376 |" in card
    assert "| eval/pass_at_1 | 0.2500 | 0.7500 |" in card
    assert "| eval/set/aime/maj_at_8 | - | 0.1250 |" in card
    assert "eval/tokens" not in card
    assert "  temperature: 0.9\n" in card


def test_the_figures_of_a_card_are_those_up_to_its_step(run):
    card = card_of(run, 2)
    assert "| held-out prompts | after step 0 | after step 2 |" in card
    assert "0.7500" not in card


def test_what_a_run_does_not_say_is_not_made_up(run):
    (run / "metrics.jsonl").unlink()
    (run / "run_facts.json").unlink()
    card = card_of(run, 4)
    assert "The run was not evaluated." in card
    assert "The run does not say which prompts it was trained on." in card


def test_the_generation_config_says_how_the_run_sampled_and_keeps_what_else_the_base_says(tmp_path):
    said = {"top_k": 20, "repetition_penalty": 1.05, "temperature": 0.7, "pad_token_id": 0}
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    config = load_config([], ["rollout.top_p=0.95"])
    assert make_generation_config(tmp_path, config, (2, 7)) == {
        "pad_token_id": 0,
        "do_sample": True,
        "temperature": 1.0,
        "top_p": 0.95,
        "eos_token_id": [2, 7],
    }


def test_the_newest_checkpoint_is_exported_or_that_of_a_step(run):
    assert find_checkpoint(run, None).name == "step_00004"
    assert find_checkpoint(run, 2).name == "step_00002"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["RUN", "--out=new", "--step=3"], "has no checkpoint of step 3; it has 2, 4"),
        (["RUN", "--out=there"], "--out there is there already"),
        (["elsewhere", "--out=new"], "elsewhere is no run"),
    ],
)
def test_what_cannot_be_exported_is_refused(run, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert cli.main(["export", *(word.replace("RUN", str(run)) for word in words)]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_damaged_checkpoint_is_not_exported(run):
    (run / "checkpoints/step_00004/state.json").unlink()
    with pytest.raises(ValueError, match=r"state\.json is missing .* name another checkpoint"):
        find_checkpoint(run, 4)
