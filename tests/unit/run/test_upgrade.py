"""A run's folder as version 0.1.0 wrote it: what opens as it is, what is refused, and what an upgrade changes. That a
resume goes on exactly is in tests/e2e/test_run_of_version_before.py."""

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from megatron_ar3po.algorithm.history import PromptHistory
from megatron_ar3po.cli import main
from megatron_ar3po.config.load import load_config, to_dict
from megatron_ar3po.config.renamed import RENAMED
from megatron_ar3po.data.dump import load_groups
from megatron_ar3po.distributed.rank_status import read_statuses, write_status
from megatron_ar3po.folder_owner import FolderOwner
from megatron_ar3po.reuse.store import ReuseStore
from megatron_ar3po.rollout.ledger_file import rows_of_run
from megatron_ar3po.run.checkpoint_folder import CheckpointFolder
from megatron_ar3po.run.folder import check_run_folder
from megatron_ar3po.run.state import read_state
from megatron_ar3po.run.upgrade import GONE_AFTER_S, upgrade_run
from megatron_ar3po.wiring.reuse_store import fingerprint_of

REFUSAL = (
    "run has format 1, of a version before this one (or version.json was removed: bring it back then); `ar3po "
    "upgrade run` brings it to format 2."
)
STORED = ["s1.p2.2.1", "s1.p3.2.0", "s2.p3.2.0", "s3.p1.1.2", "s3.p2.1.3", "s4.p2.1.3", "s4.p3.1.2"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def output_of(capsys, *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


def refusal_of(capsys, *words: str) -> str:
    assert main(words) == 2
    return capsys.readouterr().err.removeprefix("ar3po: error: ").strip()


def set_format(folder: Path, number: int, written_by: str) -> None:
    content = {"format": number, "written_by": written_by}
    (folder / "version.json").write_text(json.dumps(content))


@pytest.mark.parametrize("is_upgraded", [False, True], ids=["as it is", "upgraded"])
def test_report_and_status_read_it(old_run, capsys, is_upgraded):
    """4 steps of 4 prompts: stage 1 sampled 16 x 4 responses, stage 2 another 12 x 4; 4 groups borrowed."""
    if is_upgraded:
        upgrade_run(old_run)
    report = json.loads(output_of(capsys, "report", "run", "--json"))
    assert (report["algorithm"], report["steps"], report["borrowed_groups"]) == ("ar3po", 4, 4)
    assert report["responses_by_stage"] == {"1": 64, "2": 48}
    assert report["pass_at_1_after"] == pytest.approx(1 / 12)
    status = output_of(capsys, "status", "run")
    assert "1 of 1 ranks on 1 nodes, 4 steps done" in status and "the run is DONE" in status


@pytest.mark.parametrize("is_upgraded", [False, True], ids=["as it is", "upgraded"])
def test_the_commands_that_look_into_its_store_read_it(old_run, capsys, is_upgraded):
    if is_upgraded:
        upgrade_run(old_run)
    (shard,) = (
        json.loads(line)
        for line in output_of(capsys, "reuse", "stats", "run", "--json").splitlines()
    )
    assert (shard["responses"], shard["prompts"], shard["loans"]) == (7, 6, 4)
    listed = output_of(capsys, "reuse", "ls", "run", "--json").splitlines()
    assert [json.loads(line)["response_id"] for line in listed] == STORED
    assert "1 shards, 0 problems" in output_of(capsys, "reuse", "verify", "run")
    shown = output_of(capsys, "reuse", "show", "run", "s1.p2.2.1", "--tokenizer", "model", "--json")
    assert [loan["drift"] for loan in json.loads(shown)["loans"]] == [
        pytest.approx(0.102788, abs=1e-6),
        pytest.approx(0.214057, abs=1e-6),
    ]


def test_the_commands_that_change_its_store_take_it_as_it_is(old_run, capsys):
    """Older than two steps at step 4 are the two responses of step 1."""
    output_of(capsys, "reuse", "gc", "run", "--max-age-steps", "2")
    assert "shards 2" in output_of(capsys, "reuse", "reshard", "run", "--dp-size", "2")
    output_of(capsys, "reuse", "export", "run", "kept.jsonl")
    lines = Path("kept.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["response_id"] for line in lines) == STORED[2:]


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "run"),
        ("reuse", "regrade", "run"),
        ("train", "run/resolved_config.yaml", "run.resume=true"),
    ],
    ids=lambda words: " ".join(words),
)
def test_what_reads_its_config_is_refused_with_the_command_to_give(old_run, capsys, words):
    before = files_of(old_run)
    assert refusal_of(capsys, *words) == REFUSAL
    assert files_of(old_run) == before


def test_a_resume_with_a_config_of_today_is_refused_too_and_changes_nothing(old_run):
    config = load_config([], ["run.dir=run", "run.name=old", "run.resume=true"])
    before = files_of(old_run)
    with pytest.raises(ValueError) as error:
        check_run_folder(config)
    assert str(error.value) == REFUSAL
    assert files_of(old_run) == before


def test_upgraded_its_config_has_the_same_values_under_todays_names(old_run, capsys):
    """Every option of the old file, by the table of renamed ones; ten of these fourteen are not at their defaults."""
    old = yaml.safe_load((old_run / "resolved_config.yaml").read_text())
    assert main(["upgrade", "run"]) == 0
    now = to_dict(load_config([old_run / "resolved_config.yaml"]))
    renamed = set()
    for section, options in old.items():
        for option, value in options.items():
            name = f"{section}.{option}"
            renamed |= {name} & RENAMED.keys()
            new_section, new_option = RENAMED.get(name, name).split(".")
            assert now[new_section][new_option] == value, name
    assert renamed == RENAMED.keys()
    changed = {"max_concurrent_requests": 24, "max_retries": 4, "request_timeout_s": 250.0}
    assert now["servers"].items() >= changed.items()
    assert now["servers"]["sglang"] == {"decode_log_interval": 20}
    assert (now["run"]["deterministic"], now["reuse"]["max_logprob_drift"]) == (True, 2.5)


def test_an_upgrade_keeps_the_old_config_and_touches_no_other_file(old_run):
    before = files_of(old_run)
    upgrade_run(old_run)
    after = files_of(old_run)
    assert json.loads(after.pop("version.json")) == {"format": 2, "written_by": "0.2.0.dev0"}
    assert after.pop("resolved_config.v1.yaml") == before.pop("resolved_config.yaml")
    assert after.pop("resolved_config.yaml")
    assert after == before


def test_it_says_what_changes_and_a_second_call_has_nothing_to_do(old_run, capsys):
    before = files_of(old_run)
    told = output_of(capsys, "upgrade", "run", "--dry-run").splitlines()
    assert files_of(old_run) == before
    assert "  rollout.max_retries              ->  servers.max_retries: 4" in told
    assert (
        "  rollout.sglang                   ->  servers.sglang: {decode_log_interval: 20}" in told
    )
    assert sum("  ->  " in line for line in told) == len(RENAMED) == 14
    assert told[-1] == "run would have format 2 now"
    done = output_of(capsys, "upgrade", "run").splitlines()
    assert done[:-1] == told[:-1]
    assert done[-1] == "run has format 2 now"
    after = files_of(old_run)
    assert "there is nothing to do" in output_of(capsys, "upgrade", "run")
    assert files_of(old_run) == after


@pytest.mark.parametrize("is_config_written", [False, True])
def test_an_upgrade_that_was_killed_is_done_by_the_next_call(old_run, is_config_written):
    upgrade_run(old_run)
    whole = files_of(old_run)
    (old_run / "version.json").unlink()  # what an upgrade writes last
    if not is_config_written:
        shutil.copy(old_run / "resolved_config.v1.yaml", old_run / "resolved_config.yaml")
    upgrade_run(old_run)
    assert files_of(old_run) == whole


def test_upgraded_its_store_opens_for_writing_and_lends(old_run):
    """The prompt of s1.p2.2.1 has that response alone."""
    upgrade_run(old_run)
    config = load_config([old_run / "resolved_config.yaml"])
    with ReuseStore.open(
        old_run / "reuse",
        dp_rank=0,
        dp_size=1,
        config=config.reuse,
        run_seed=config.run.seed,
        fingerprint=fingerprint_of(config),
        sampler={"temperature": 1.0, "top_p": 1.0},
    ) as store:
        store.rollback(CheckpointFolder(old_run / "checkpoints", keep_last=1).oldest().store_cursor)
        assert len(store) == 7
        lent = store.borrow("3e3d808c1650034f9b484398848b2b0b", step=5, position=0)
    assert lent is not None
    assert (lent.response.response_id, lent.origin) == ("s1.p2.2.1", "reused")
    assert (lent.verdict.status, lent.verdict.extracted) == ("correct", "8")


def test_upgraded_its_stored_responses_are_graded_anew(old_run, capsys):
    upgrade_run(old_run)
    assert output_of(capsys, "reuse", "regrade", "run") == "kept 7\n"


def test_its_state_and_its_ledger_read_back(old_run):
    checkpoint = CheckpointFolder(old_run / "checkpoints", keep_last=1).newest()
    assert checkpoint == old_run / "checkpoints/step_00004"
    state = read_state(old_run / "checkpoints/step_00004")
    assert (state.step, state.policy_version, state.store_cursor) == (4, 4, {"step": 4})
    assert state.totals["rollout/responses_total"] == 112
    rows = rows_of_run(old_run / "ledger")
    assert sum(row["responses"] for row in rows if row["kind"] == "prompt") == 112
    history = PromptHistory()
    history.replay(rows)
    asked = {row["prompt_id"] for row in rows if row["kind"] == "prompt"}
    assert len(asked) == 6 and all(history.is_known(prompt_id) for prompt_id in asked)


def test_its_dumps_are_refused_by_one_sentence(old_run, capsys):
    dump = old_run / "dumps/step_00004.pt"
    with pytest.raises(ValueError) as error:
        load_groups(dump)
    assert str(error.value) == (
        "debug.replay_path=run/dumps/step_00004.pt is not a dumped step of format 2; dump one with "
        "debug.dump_steps=[1]."
    )
    told = output_of(capsys, "upgrade", "run")
    assert "dumps/step_00004.pt can no longer be replayed; dump the step anew" in told


def test_a_run_that_goes_on_is_not_upgraded(old_run, capsys):
    """Its status was written 5 s ago and has no end; the same a little later than a rank may be silent is that of a
    run that was killed."""
    (status,) = read_statuses(old_run / "status")
    for age_s, code in ((5.0, 2), (GONE_AFTER_S + 5.0, 0)):
        running = asdict(status) | {"end": "", "written": time.time() - age_s, "host": "node7"}
        write_status(old_run / "status", type(status)(**running))
        assert main(["upgrade", "run"]) == code
        said = capsys.readouterr().err
        assert ("run is running, rank 0 (node7" in said and "stop it first" in said) == bool(code)


def test_a_run_that_somebody_owns_is_not_upgraded(old_run, capsys):
    owner = FolderOwner.claim(old_run)
    before = files_of(old_run)
    said = refusal_of(capsys, "upgrade", "run")
    assert said.startswith("run.dir=run has an owner (its owner.json): process ")
    assert files_of(old_run) == before
    owner.release()
    assert "format 2 now" in output_of(capsys, "upgrade", "run")


def test_what_is_no_run_is_not_upgraded(old_run, capsys):
    assert refusal_of(capsys, "upgrade", "model").startswith(
        "model holds no run (no resolved_config.yaml)"
    )
    said = refusal_of(capsys, "upgrade", "config.yaml")
    assert "`ar3po train config.yaml --dry-run` names the options" in said


@pytest.mark.parametrize(
    "words",
    [
        ("status", "run"),
        ("evaluate", "run"),
        ("reuse", "regrade", "run"),
        ("upgrade", "run"),
    ],
    ids=lambda words: words[0],
)
def test_a_run_of_a_later_version_is_refused(old_run, capsys, words):
    """A report says so and shows what it can read (tests/unit/reporting/test_run_data.py)."""
    set_format(old_run, 3, written_by="0.7.0")
    assert refusal_of(capsys, *words) == (
        "run has format 3 and was written by megatron_ar3po 0.7.0; this is 0.2.0.dev0, which knows formats up to 2: "
        "install 0.7.0 or later."
    )


def test_a_version_that_cannot_be_read_is_named(old_run, capsys):
    (old_run / "version.json").write_text('{"format": ')
    assert refusal_of(capsys, "status", "run").startswith("run/version.json cannot be read")
