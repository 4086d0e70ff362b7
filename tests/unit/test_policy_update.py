"""From groups to optimizer steps, with an actor that only writes down what it gets. That the numbers are those of plain
torch, at every layout, is shown in tests/parallel/test_objective_layouts.py."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from fakes.actor import FakeActor
from fakes.algorithm_cases import group, stored_answer
from fakes.ranks import OneRank

from megatron_ar3po.algorithm.response_reuse import with_borrowed
from megatron_ar3po.config.schema import Config
from megatron_ar3po.policy_update import PolicyUpdate, UpdateReport
from megatron_ar3po.records import Max, Mean
from megatron_ar3po.types import ResponseGroup, RowKey


@dataclass
class TwoReplicas(OneRank):
    """The other replica's groups and samples, given as they would come."""

    others: list[Any] = field(default_factory=list)

    def gather_over_replicas(self, value: Any) -> list[Any]:
        return [value, self.others]


def config(**algorithm: Any) -> Config:
    plain = Config()
    return replace(plain, algorithm=replace(plain.algorithm, **algorithm))


def make_update(actor: FakeActor, settings: Config, ranks: OneRank | None = None) -> PolicyUpdate:
    return PolicyUpdate(actor, cast(Any, ranks or OneRank()), settings)


def train(actor: FakeActor, settings: Config, groups: list[ResponseGroup]) -> UpdateReport:
    update = make_update(actor, settings)
    return update.run(update.build_batch(update.make_samples(groups), groups), groups)


def advantages_of_rows(report: UpdateReport) -> list[float]:
    """One for each response, in the order of the batch's rows."""
    (micro,) = report.batch.micro_batches
    return [
        float(micro.advantages[(micro.sequence_ids == row) & (micro.loss_mask > 0)][0])
        for row in range(len(micro.row_keys))
    ]


def make_rescued(position: int) -> ResponseGroup:
    lent = stored_answer(position=position)
    return with_borrowed(group([0] * 4, position=position), lent, seed=0, step=5)


def test_one_update_a_step_needs_no_pass_before_it():
    actor = FakeActor()
    report = train(actor, config(), [group([1, 0]), make_rescued(1)])
    assert actor.events == ["update"]
    assert [mini.old_logprobs_from for mini in actor.updated] == ["update"]
    assert all(micro.old_logprobs is None for micro in report.batch.micro_batches)


def test_of_two_updates_only_the_second_has_its_old_logprobs_from_a_pass_before_the_first():
    actor = FakeActor()
    report = train(actor, config(num_mini_batches=2), [group([1, 0]), group([0, 1], position=1)])
    assert actor.events == ["old_logprobs", "update", "update"]
    assert [stats.loss for stats in report.stats] == [1.0, 2.0]
    first, second = actor.updated
    assert (first.old_logprobs_from, second.old_logprobs_from) == ("update", "pass")
    assert all(micro.old_logprobs is None for micro in first.micro_batches)
    assert all(micro.old_logprobs is not None for micro in second.micro_batches)


def test_with_the_servers_logprobs_no_update_needs_a_pass():
    actor = FakeActor()
    settings = config(num_mini_batches=2, old_logprobs="behaviour")
    train(actor, settings, [group([1, 0]), group([0, 1], position=1)])
    assert actor.events == ["update", "update"]
    assert [mini.old_logprobs_from for mini in actor.updated] == ["update", "server"]
    assert all(s.uses_behaviour_logprobs for mini in actor.updated for s in mini.samples)


def test_what_the_updates_report_is_added_up():
    """Two mini-batches of two responses of three tokens, losses 1 and 2."""
    report = train(
        FakeActor(), config(num_mini_batches=2), [group([1, 0]), group([0, 1], position=1)]
    )
    assert report.records["actor/loss"] == Mean(1.5, 2)
    assert report.records["actor/ratio_mean"] == Mean(1.0, 12)
    assert report.records["actor/samples"] == Max(4)
    assert report.records["actor/tokens"] == Max(20)
    assert report.records["actor/skipped_updates"] == Max(0)
    assert "reuse/logprob_drift_mean" not in report.records


def test_a_skipped_update_is_counted_and_hides_nothing_of_the_others(caplog):
    """Of three mini-batches the second has loss NaN: the mean is that of losses 1 and 3."""
    groups = [group([1, 0], position=i) for i in range(3)]
    with caplog.at_level(logging.WARNING):
        report = train(FakeActor(skipped=[2]), config(num_mini_batches=3), groups)
    assert report.records["actor/loss"] == Mean(2.0, 2)
    assert report.records["actor/skipped_updates"] == Max(1)
    assert report.has_trained and not report.fault
    assert "its loss is nan, its gradient norm 0.5; all it was made of is finite" in caplog.text


def test_what_was_not_finite_before_the_update_or_in_it_is_named(caplog):
    actor = FakeActor(skipped=[1, 2], drift=float("inf"))
    train(actor, config(num_mini_batches=2), [group([1, 0]), group([1, 0], position=1)])
    first, second = (record.getMessage() for record in caplog.records)
    assert "not finite in it: the log-probs of its own forward pass" in first
    assert "not finite before it: old_logprobs" in second


def test_a_mismatch_with_the_servers_is_told_when_it_rises_above_the_limit_and_not_in_every_step(
    caplog,
):
    """Above 0.05, still above, below, above again; the worst token twice as far off. At 0 never."""
    mismatches = [0.07, 0.08, 0.05, 0.2]
    settings = config()
    update = make_update(FakeActor(mismatches=mismatches), settings)
    groups = [group([1, 0])]
    for _ in mismatches:
        update.run(update.build_batch(update.make_samples(groups), groups), groups)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "mismatch/logprob_abs_mean=0.07 is above observability.max_logprob_mismatch" in told[0]
    assert "by 0.14 about the worst one" in told[0] and "=0.2 is above" in told[1]
    caplog.clear()
    quiet = replace(settings.observability, max_logprob_mismatch=0.0)
    train(FakeActor(mismatches=[9.0]), replace(settings, observability=quiet), groups)
    assert not caplog.records


@pytest.mark.parametrize(
    ("skipped", "faults"),
    [
        ([1, 2, 3, 4], [False, False, True, True]),
        ([1, 2, 4, 5], [False, False, False, False]),  # the third was made: counting starts anew
        ([2, 3, 4], [False, False, False, True]),
    ],
)
def test_more_skipped_updates_in_a_row_than_allowed_are_a_fault_of_the_run(skipped, faults):
    """Two are allowed, over the steps: one update a step."""
    settings = config()
    settings = replace(settings, actor=replace(settings.actor, max_skipped_updates=2))
    update = make_update(FakeActor(skipped=skipped), settings)
    groups = [group([1, 0])]
    reports = [
        update.run(update.build_batch(update.make_samples(groups), groups), groups)
        for _ in range(4)
    ]
    assert [bool(report.fault) for report in reports] == faults
    assert [report.has_trained for report in reports] == [i not in skipped for i in range(1, 5)]
    for report in reports:
        assert (
            not report.fault or "(actor.max_skipped_updates=2; the last: loss nan" in report.fault
        )


def test_a_kl_penalty_in_the_reward_makes_the_advantages_anew():
    """The worked example of `with_kl_penalty`: rewards 1 0 0 0, KL 2 0 -1 4, coefficient 0.1."""
    kl = {RowKey(0, f"p0.{i}", "fresh"): value for i, value in enumerate([2.0, 0.0, -1.0, 4.0])}
    actor = FakeActor(kl=kl)
    settings = config(kl_in="reward", kl_coef=0.1)
    report = train(actor, settings, [group([1, 0, 0, 0])])
    assert actor.events == ["old_logprobs", "reference_kl", "update"]
    expected = [1.561447, -0.289156, -0.057831, -1.214459]
    assert advantages_of_rows(report) == pytest.approx(expected, abs=1e-5)


def test_a_borrowed_response_with_the_name_of_a_fresh_one_trains_with_its_own_sign():
    """Two wrong responses, one of which makes room for a stored one that is named like the other, as two runs name
    theirs alike. Rewards 1 0 and a KL of 0: the borrowed one has +1, the fresh one -1."""
    unsolved = group([0, 0])
    lent = with_borrowed(unsolved, stored_answer(), seed=0, step=5)
    (index,) = [i for i, scored in enumerate(lent.responses) if scored.origin == "reused"]
    same_name = lent.responses[1 - index].response.response_id
    borrowed = lent.responses[index]
    borrowed = replace(borrowed, response=replace(borrowed.response, response_id=same_name))
    lent = with_borrowed(unsolved, borrowed, seed=0, step=5)
    assert len({scored.response.response_id for scored in lent.responses}) == 1
    report = train(FakeActor(), config(kl_in="reward", kl_coef=0.1), [lent])
    expected = [1.0, -1.0] if index == 0 else [-1.0, 1.0]
    assert advantages_of_rows(report) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("settings", [{"kl_in": "loss", "kl_coef": 0.1}, {"kl_coef": 0.0}])
def test_a_kl_in_the_loss_or_none_leaves_the_advantages(settings):
    """Rewards 1 0 0 0: (1 - 0.25) / 0.433013 = 1.732047 with the divisor's guard, and -0.577349."""
    actor = FakeActor(kl={RowKey(0, "p0.0", "fresh"): 100.0})
    report = train(actor, config(**settings), [group([1, 0, 0, 0])])
    assert "reference_kl" not in actor.events
    expected = [1.732047, -0.577349, -0.577349, -0.577349]
    assert advantages_of_rows(report) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("limit", "num_rows", "option"), [(0.0, 4, "recompute"), (0.1, 3, "detach")]
)
def test_a_borrowed_response_that_drifted_too_far_is_detached_before_the_update(
    limit, num_rows, option
):
    """The actor's log-probs are 0.25 off. A limit of 0 detaches nothing: there is no pass before the update, which
    itself tells the drift."""
    settings = config()
    settings = replace(settings, reuse=replace(settings.reuse, max_logprob_drift=limit))
    actor = FakeActor(drift=0.25)
    report = train(actor, settings, [make_rescued(0)])
    assert actor.events == ["old_logprobs"] * (limit > 0) + ["update"]
    assert actor.updated[0].num_sequences == num_rows
    assert report.records["reuse/switched_to_detach"] == Max(int(option == "detach"))
    assert report.records["reuse/logprob_drift_max"].value == pytest.approx(0.25)
    (loan,) = report.loans
    assert (loan.option, loan.drift) == (option, pytest.approx(0.25))
    assert loan.ratio == (None if option == "detach" else 1.0)


def test_an_update_whose_only_samples_all_drifted_away_trains_nothing():
    """A group of two that borrowed: under `detach` its one own response is left; with `overlong_filtering` it leaves as
    well, and nothing carries gradient."""
    borrowed = make_rescued(0)
    cut = tuple(
        replace(r, response=replace(r.response, finish_reason="length"))
        if r.origin == "fresh"
        else r
        for r in borrowed.responses
    )
    settings = config(overlong_filtering=True)
    settings = replace(settings, reuse=replace(settings.reuse, max_logprob_drift=0.1))
    report = train(FakeActor(drift=0.25), settings, [replace(borrowed, responses=cut)])
    assert report.stats == () and report.batch.is_empty
    assert report.records["actor/samples"] == Max(0)


def test_what_is_relative_to_the_step_sees_the_groups_of_all_replicas():
    """REINFORCE++: rewards 1 0 here and 0 0 there have mean 0.25 and std 0.433013; alone they have mean 0.5."""
    groups = [group([1, 0])]
    ranks = TwoReplicas(others=[group([0, 0], position=1)])
    samples = make_update(FakeActor(), config(advantage="global"), ranks).make_samples(groups)
    assert [s.group_position for s in samples] == [0, 0]
    assert samples[0].advantage == pytest.approx(0.75 / 0.433013, abs=1e-4)


def test_what_is_relative_to_a_group_asks_nobody():
    ranks = TwoReplicas(others=["nobody should look at this"])
    samples = make_update(FakeActor(), config(), ranks).make_samples([group([1, 0])])
    assert [s.advantage for s in samples] == pytest.approx([1, -1], abs=1e-5)


def digest_after(
    actor: FakeActor, groups: list[ResponseGroup], ranks: OneRank | None = None
) -> str:
    update = make_update(actor, config(num_mini_batches=2), ranks)
    update.run(update.build_batch(update.make_samples(groups), groups), groups)
    return update.digest.value


def test_the_policys_digest_tells_what_trained_it_and_not_on_how_many_replicas():
    groups = [group([1, 0], position=0), group([1, 0], position=1)]
    whole = digest_after(FakeActor(), groups)
    others = make_update(FakeActor(), config()).make_samples(groups[1:])
    assert digest_after(FakeActor(), groups[:1], TwoReplicas(others=others)) == whole != ""


def test_a_skipped_update_leaves_the_policys_digest():
    groups = [group([1, 0], position=0), group([1, 0], position=1)]
    assert digest_after(FakeActor(skipped=[1, 2]), groups) == ""
    assert digest_after(FakeActor(skipped=[1]), groups) == digest_after(FakeActor(), groups[1:])


def test_a_step_below_the_floor_of_entropy_raises_the_bonus_of_the_next():
    """Two updates a step, both with the step's coefficient; 0.2 and 0.3 have the mean 0.25, above is no bonus."""
    actor = FakeActor(entropies=[0.2, 0.3, 0.5, 0.5, 0.75, 0.75])
    settings = config(num_mini_batches=2, entropy_target=0.3, entropy_coef_change=0.01)
    update = make_update(actor, settings)
    rows = []
    for _ in range(3):
        groups = [group([1, 0]), group([1, 0], position=1)]
        rows.append(update.run(update.build_batch(update.make_samples(groups), groups), groups))
    assert actor.entropy_coefs == [0.0, 0.0, 0.01, 0.01, 0.0, 0.0]
    assert [row.records["actor/entropy_coef"] for row in rows] == [Max(0.0), Max(0.01), Max(0.0)]
    assert [row.records["actor/entropy"].value for row in rows] == [0.25, 0.5, 0.75]


def test_a_skipped_update_says_nothing_of_the_entropy():
    actor = FakeActor(skipped=[1], entropies=[0.2])
    update = make_update(actor, config(entropy_target=0.3))
    groups = [group([1, 0])]
    update.run(update.build_batch(update.make_samples(groups), groups), groups)
    assert update.entropy_floor.state == {"coef": 0.0, "entropy": None}
