"""Whatever happens to a file that a resume reads: the run goes on with what is whole and says so, or is refused in one
sentence that names the file. The trainer, Megatron and the store are real; SGLang is played (harness/stub_sglang)."""

from __future__ import annotations

import pytest
from harness.damage import DamagedRuns, explain_fault
from harness.stub_sglang import serve_stub

NEWEST = "checkpoints/step_00003"
SAMPLE = [
    ("checkpoints/latest", "cut"),
    (f"{NEWEST}/model/__0_0.distcp", "flipped"),
    (f"{NEWEST}/manifest.json", "removed"),
    ("metrics.jsonl", "flipped"),
    ("ledger/dp00.jsonl", "emptied"),
    ("ledger/responses/step_00004.dp00-of-01.jsonl", "flipped"),
    ("resolved_config.yaml", "removed"),
    ("run_facts.json", "cut"),
    ("owner.json", "flipped"),
    ("reuse/dp00_of_01.sqlite", "flipped"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_task):
    with serve_stub() as stub:
        runs = DamagedRuns(tmp_path_factory.mktemp("damage"), stub)
        runs.make_killed_run()
        yield runs


def test_the_killed_run_is_whole_and_goes_on(runs):
    resumed = runs.resume_after("flipped")
    assert resumed.code == 0 and "resumed from" in resumed.said, resumed.said


def test_the_sample_is_of_the_generated_list(runs):
    """And the list has a file of each kind: a name that is no longer there would be damage to nothing."""
    assert set(SAMPLE) <= set(runs.cases())


@pytest.mark.parametrize(("name", "damage"), SAMPLE)
def test_a_damaged_file_is_named_or_passed_over_with_a_word(runs, name, damage):
    resumed = runs.resume_after(damage, name)
    assert explain_fault(resumed, name) == "", resumed.said


def test_where_no_checkpoint_is_whole_the_refusal_names_what_is_wrong_with_each(runs):
    names = [f"checkpoints/step_0000{step}/model/common.pt" for step in (2, 3)]
    resumed = runs.resume_after("flipped", *names)
    assert resumed.code == 2 and all(name in resumed.error for name in names), resumed.said


@pytest.mark.chaos
@pytest.mark.timeout(7200)
def test_every_file_that_a_resume_reads_damaged_in_every_way(runs):
    faults = {}
    for name, damage in runs.cases():
        resumed = runs.resume_after(damage, name)
        if fault := explain_fault(resumed, name):
            faults[f"{name} {damage}"] = fault
    assert not faults, "\n".join(f"{case}: {fault}" for case, fault in faults.items())
