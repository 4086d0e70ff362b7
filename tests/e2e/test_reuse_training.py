"""A borrowed response through the real store, trainer functions, batch builder and Megatron actor: a group that was all
wrong borrows, it is dumped, and debug.mode=train_only trains on the dump."""

import json
from dataclasses import replace

import numpy as np
import pytest
from fakes.reuse_cases import deposit, make_prompt, make_response, open_store
from fakes.tiny_model import write_tiny_model
from harness.trainer_runs import ROOT, RunStarter

from megatron_ar3po.algorithm.response_reuse import with_borrowed
from megatron_ar3po.algorithm.training_samples import group_outcome, samples_with_signal
from megatron_ar3po.cli import main as command_line
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.data.dump import save_groups
from megatron_ar3po.reuse.admin.inspection import find_shards, stored_responses
from megatron_ar3po.types import ResponseGroup

GROUP_SIZE = 4
STEP = 2


def in_vocabulary(scored, shift=0):
    """The tiny model knows 128 tokens."""
    tokens = ((scored.response.token_ids + shift) % 120 + 3).astype(np.int32)
    return replace(scored, response=replace(scored.response, token_ids=tokens))


def rescued_group(folder, option, shift=0):
    """Of step 2: four wrong answers, one of them replaced by a stored answer of step 1."""
    prompt = make_prompt(0)
    with open_store(folder, option=option) as store:
        deposit(store, [in_vocabulary(make_response(prompt, 1), shift)], step=1)
        borrowed = store.borrow(prompt.prompt_id, step=STEP)
    asked = replace(prompt, token_ids=(5, 6, 7))
    wrong = tuple(
        in_vocabulary(make_response(prompt, STEP, i, num_tokens=4 + i, status="incorrect"))
        for i in range(GROUP_SIZE)
    )
    group = ResponseGroup(position=0, prompt=asked, responses=wrong)
    assert samples_with_signal([group], AlgorithmConfig(), ReuseConfig(option=option)) == []
    rescued = with_borrowed(group, borrowed, seed=0, step=STEP)
    assert group_outcome(rescued) == "rescued"
    return rescued


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """replay.json of {case: option, shift of the stored tokens, max drift, data-parallel ranks}."""
    folder = tmp_path_factory.mktemp("reuse_training")
    model = write_tiny_model(folder / "model")
    starter = RunStarter(folder)
    cases = {
        "detach": ("detach", 0, 0.0, 1),
        "detach, other tokens": ("detach", 1, 0.0, 1),
        "recompute": ("recompute", 0, 0.0, 1),
        "recompute, other tokens": ("recompute", 1, 0.0, 1),
        "recompute, drifted too far": ("recompute", 0, 0.5, 1),
        "recompute, drifted too far, two ranks": ("recompute", 0, 0.5, 2),
        "recompute, within the limit": ("recompute", 0, 50.0, 1),
    }
    facts = {}
    try:
        for number, (name, (option, shift, max_drift, ranks)) in enumerate(cases.items()):
            run, dump = folder / f"run{number}", folder / f"{number}.pt"
            group = rescued_group(folder / f"store{number}", option, shift)
            save_groups(dump, [group], step=STEP, policy_version=STEP - 1)
            words = [f"run.dir={run}", "debug.mode=train_only", f"debug.replay_path={dump}"]
            words += [f"reuse.option={option}", f"reuse.max_logprob_drift={max_drift}"]
            starter(*words, f"model.path={model}", ranks=ranks).wait(120).require_success()
            facts[name] = json.loads((run / "replay.json").read_text())
    finally:
        starter.end_all()
    return facts


def test_a_group_that_was_all_wrong_trains_with_a_borrowed_response(trained):
    for facts in trained.values():
        assert facts["weights_after"] != facts["weights_before"]
        assert facts["grad_norm"][0] > 0


def test_option_2_gives_no_gradient_through_the_borrowed_response_and_some_through_its_siblings(
    trained,
):
    one, other = trained["detach"], trained["detach, other tokens"]
    assert one["samples"] == GROUP_SIZE - 1
    assert one["grad_norm"][0] > 0  # of the three siblings
    assert one["grad_norm"] == other["grad_norm"]  # to the last bit, whatever was borrowed
    assert one["weights_after"] == other["weights_after"]
    assert "reuse/ratio_mean" not in one["metrics"][0]


def test_option_1_starts_at_ratio_1_and_the_borrowed_tokens_matter(trained):
    one, other = trained["recompute"], trained["recompute, other tokens"]
    assert one["samples"] == GROUP_SIZE
    assert one["metrics"][0]["reuse/ratio_mean"] == pytest.approx(1.0, abs=1e-6)
    assert one["metrics"][0]["reuse/clip_frac"] == 0
    assert one["weights_after"] != other["weights_after"]


@pytest.mark.parametrize("ranks", ["", ", two ranks"])
def test_a_borrowed_response_that_drifted_too_far_trains_as_under_option_2(trained, ranks):
    """The stored log-probs are random between -1 and 0, an untrained model of 128 tokens says about -5. With two
    data-parallel ranks one of them holds the borrowed row, and both weigh by the same smaller denominator."""
    switched, detached = trained[f"recompute, drifted too far{ranks}"], trained["detach"]
    assert (switched["samples"], switched["tokens"]) == (detached["samples"], detached["tokens"])
    assert switched["loss"] == pytest.approx(detached["loss"], rel=1e-5)
    assert switched["grad_norm"] == pytest.approx(detached["grad_norm"], rel=1e-5)
    assert switched["weights_after"] == pytest.approx(detached["weights_after"], rel=1e-6)
    assert switched["metrics"][0].keys() == detached["metrics"][0].keys()  # no reuse/ratio_mean
    for name, value in detached["metrics"][0].items():
        assert switched["metrics"][0][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    (loan,) = switched["loans"]
    assert (loan["option"], loan["ratio"]) == ("detach", None)
    assert 3 < loan["drift"] < 6


def test_a_borrowed_response_within_the_limit_trains_as_under_option_1_and_tells_how(trained):
    """A limit costs a pass, which measures the drift before the update; without one the update tells all of it."""
    inside, plain = trained["recompute, within the limit"], trained["recompute"]
    assert inside["weights_after"] == plain["weights_after"]
    measured, told = inside["loans"]  # before the update, and by it
    assert (measured["option"], told["option"]) == ("recompute", None)
    assert told["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert told["clip_frac"] == 0
    assert measured["response_id"] == told["response_id"]
    (whole,) = plain["loans"]
    assert (whole["option"], whole["ratio"]) == ("recompute", 1.0)
    assert whole["drift"] == pytest.approx(measured["drift"], abs=1e-5)


def test_a_run_lends_what_its_servers_find_likely_and_tells_what_became_of_it(tmp_path, capsys):
    """The real trainer on one replica. Eight prompts come by in every step, so that a prompt that was solved once and
    is unsolved now finds its own earlier answer. Two responses a prompt keep many unsolved."""
    prompts = tmp_path / "train.jsonl"
    lines = (ROOT / ".cache/tiny_sum/train.jsonl").read_text().splitlines()[:8]
    prompts.write_text("\n".join(lines) + "\n")
    starter = RunStarter(tmp_path)
    words = ["rollout.prompts_per_step=8", "rollout.num_stages=1", "rollout.responses_per_stage=2"]
    words += ["reuse.pick=likely", "reuse.option=recompute", "reuse.min_mean_logprob=-20"]
    words += [
        "run.num_steps=8",
        "evaluation.path=",
        f"data.path={prompts}",
        "rollout.temperature=2",
    ]
    try:
        run = starter(*words, "reuse.max_logprob_drift=2").wait().require_success()
    finally:
        starter.end_all()
    asked = sum(row.get("reuse/scored_responses", 0) for row in run.metrics)
    lent = sum(row.get("reuse/loans", 0) for row in run.metrics)
    assert asked >= lent > 0
    assert lent == sum(row.get("reuse/borrowed_groups", 0) for row in run.metrics)
    ledger = [json.loads(line) for line in (run.folder / "ledger/dp00.jsonl").open()]
    assert sum(row["responses"] for row in ledger if row["kind"] == "scoring") == asked
    loans = [loan for row in read_store(run.folder) for loan in row.loans]
    assert len(loans) == lent
    for loan in loans:
        assert loan.option == "recompute" and loan.clip_frac == 0
        assert loan.ratio == pytest.approx(1.0, abs=1e-5)
        assert -20 < loan.mean_logprob < 0 and 0 <= loan.drift < 2
    name = next(row.scored.response.response_id for row in read_store(run.folder) if row.loans)
    assert command_line(["reuse", "show", str(run.folder), name]) == 0
    assert "1.000 0.000" in " ".join(capsys.readouterr().out.split())  # ratio, share clipped


def read_store(folder):
    return [row for shard in find_shards(folder) for row in stored_responses(shard)]
