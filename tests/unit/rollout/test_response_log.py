"""A rollout is killed (an error in the middle, or a signal) and done again by another process, here by another
controller with a log of its own over the same folder."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest
from fakes.response_logs import (
    SeededEngine,
    contents,
    make_controller,
    open_log,
    right_by_chance,
    step_prompts,
)
from fakes.verifier import FakeVerifier

from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.rollout.ledger import Ledger
from megatron_ar3po.rollout.response_log import count_logged
from megatron_ar3po.rollout.step_sampler import DynamicSampler, FixedSampler, select_owned
from megatron_ar3po.sampling_cost import Spent
from megatron_ar3po.types import Verdict
from megatron_ar3po.usage import ServerUsage

PROMPTS = 12


def collect(folder, *, dies_after=None, dp_rank=0, dp_size=1, log=None, engine=None, **options):
    """(what came of one replica's part of step 3, the engine)"""
    log = log or open_log(folder, dp_rank=dp_rank, dp_size=dp_size)
    engine = engine or SeededEngine(dies_after=dies_after, policy_version=2)
    mine = select_owned(step_prompts(PROMPTS), ParallelLayout(world_size=dp_size, rank=dp_rank))
    controller = make_controller(engine, log, **options)
    try:
        return controller.collect(mine, step=3, policy_version=2), engine
    finally:
        controller.close()
        log.close()


def kill(folder, dies_after, **options) -> SeededEngine:
    engine = SeededEngine(dies_after=dies_after, policy_version=2)
    with pytest.raises(RolloutEngineError, match="killed"):
        collect(folder, engine=engine, **options)
    return engine


def rows_in(folder: Path) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in folder.glob("*.jsonl"))


@pytest.mark.parametrize("scheduling", ["continuous", "barrier"])
@pytest.mark.parametrize("dies_after", [0, 1, 17, 40])
def test_a_killed_rollout_done_again_draws_what_is_missing_alone(tmp_path, dies_after, scheduling):
    unkilled, whole = collect(tmp_path / "whole", stage_scheduling=scheduling)
    killed = kill(tmp_path / "log", dies_after, stage_scheduling=scheduling)
    assert rows_in(tmp_path / "log") == dies_after
    again, engine = collect(tmp_path / "log", stage_scheduling=scheduling)
    assert contents(again.groups) == contents(unkilled.groups)
    assert len(engine.requests) == len(whole.requests) - dies_after
    answered = set(killed.finished[:dies_after])
    assert answered.isdisjoint(request.request_id for request in engine.requests)
    assert again.restored == answered


def test_a_second_kill_loses_no_more_than_the_first(tmp_path):
    unkilled, whole = collect(tmp_path / "whole")
    kill(tmp_path / "log", 10)
    kill(tmp_path / "log", 10)
    again, engine = collect(tmp_path / "log")
    assert contents(again.groups) == contents(unkilled.groups)
    assert len(engine.requests) == len(whole.requests) - 20


def test_a_step_that_was_whole_costs_nothing_when_it_is_done_again(tmp_path):
    unkilled, _ = collect(tmp_path)
    before = rows_in(tmp_path)
    again, engine = collect(tmp_path)
    assert contents(again.groups) == contents(unkilled.groups)
    assert engine.requests == [] and rows_in(tmp_path) == before


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (3, 2)])
def test_what_one_layout_wrote_another_goes_on_with(tmp_path, before, after):
    """By prompt: whoever owns it now reads what its owner wrote then."""
    unkilled, whole = collect(tmp_path / "whole")
    for dp_rank in range(before):
        kill(tmp_path / "log", 8, dp_rank=dp_rank, dp_size=before)
    parts = [collect(tmp_path / "log", dp_rank=rank, dp_size=after) for rank in range(after)]
    groups = [group for collected, _ in parts for group in collected.groups]
    assert contents(sorted(groups, key=lambda g: g.position)) == contents(unkilled.groups)
    drawn = sum(len(engine.requests) for _, engine in parts)
    assert drawn == len(whole.requests) - 8 * before
    # and back again: nothing is left to draw, nothing is read twice
    back = [collect(tmp_path / "log", dp_rank=rank, dp_size=before) for rank in range(before)]
    assert sum(len(engine.requests) for _, engine in back) == 0


def test_damaged_rows_are_said_and_drawn_again(tmp_path, caplog):
    """Of 20 rows one has a byte flipped and the last is cut off: 18 are left."""
    unkilled, whole = collect(tmp_path / "whole")
    kill(tmp_path / "log", 20)
    (path,) = (tmp_path / "log").glob("*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4].replace(b'"status": "', b'"status": "x')
    lines[-1] = lines[-1][:-30]
    path.write_bytes(b"".join(lines))
    with caplog.at_level(logging.WARNING):
        again, engine = collect(tmp_path / "log")
    assert f"2 rows of {path} are damaged; their responses are drawn again" in caplog.text
    assert contents(again.groups) == contents(unkilled.groups)
    assert len(engine.requests) == len(whole.requests) - 18
    third, engine = collect(tmp_path / "log")
    assert contents(third.groups) == contents(unkilled.groups) and not engine.requests


def test_a_file_that_cannot_be_read_is_said_and_drawn_again(tmp_path, caplog):
    (tmp_path / "step_00003.dp00-of-02.jsonl").mkdir()
    unkilled, whole = collect(tmp_path / "whole")
    with caplog.at_level(logging.WARNING):
        again, engine = collect(tmp_path)
    assert "dp00-of-02.jsonl cannot be read (Is a directory)" in caplog.text
    assert contents(again.groups) == contents(unkilled.groups)
    assert len(engine.requests) == len(whole.requests)


def test_a_file_that_was_emptied_is_said_and_drawn_again(tmp_path, caplog):
    kill(tmp_path, 5)
    [path] = tmp_path.glob("step_*.jsonl")
    path.write_bytes(b"")
    again, engine = collect(tmp_path)
    assert f"{path} holds no response; they are drawn again" in caplog.text
    unkilled, whole = collect(tmp_path / "whole")
    assert contents(again.groups) == contents(unkilled.groups)
    assert len(engine.requests) == len(whole.requests)


@pytest.mark.parametrize("other", [{"settings": "warmer"}, {"policy_digest": lambda: "other"}])
def test_rows_of_other_settings_or_another_policy_are_left_alone(tmp_path, caplog, other):
    _, whole = collect(tmp_path / "whole")
    kill(tmp_path / "log", 20)
    with caplog.at_level(logging.WARNING):
        again, engine = collect(tmp_path / "log", log=open_log(tmp_path / "log", **other))
    assert "20 rows of" in caplog.text
    assert "are of other settings or of another policy and left alone" in caplog.text
    assert again.restored == frozenset()
    assert len(engine.requests) == len(whole.requests)
    # the first settings find their rows again
    _, engine = collect(tmp_path / "log")
    assert len(engine.requests) == len(whole.requests) - 20


def test_another_seed_prompt_or_version_is_another_draw(tmp_path):
    """The rows of version 2 say nothing of version 5, whatever the digests."""
    kill(tmp_path, 20)
    engine = SeededEngine(policy_version=5)
    controller = make_controller(engine, open_log(tmp_path))
    collected = controller.collect(step_prompts(PROMPTS), step=3, policy_version=5)
    assert collected.restored == frozenset()


def test_what_a_step_has_cost_so_far_is_told_by_its_rows(tmp_path):
    """Of step 3: 20 responses by one policy, all of them by another, all but 20 by the first; step 4 holds nothing but
    a damaged row."""
    kill(tmp_path, 20)
    collected, _ = collect(tmp_path, log=open_log(tmp_path, policy_digest=lambda: "other"))
    collect(tmp_path)
    responses = [scored.response for scored in all_of(collected.groups)]
    (tmp_path / "step_00004.dp00-of-01.jsonl").write_bytes(b"half of a li")
    expected = Spent(responses=2 * len(responses), tokens=2 * sum(r.num_tokens for r in responses))
    assert count_logged(tmp_path, after_step=2) == {3: expected}
    assert count_logged(tmp_path, after_step=3) == {}
    assert count_logged(tmp_path / "none", after_step=0) == {}


def test_a_verdict_that_failed_or_is_of_other_rewards_is_asked_for_again(tmp_path):
    class FailingVerifier(FakeVerifier):
        async def verify(self, prompt, response):
            if response.index == 1:
                return Verdict(reward=0.0, status="error", reason="worker died")
            return await super().verify(prompt, response)

    options = {"num_stages": 1}
    unkilled, _ = collect(tmp_path / "whole", **options)
    collect(tmp_path / "log", verifier=FailingVerifier(right_by_chance), **options)
    verifier = FakeVerifier(right_by_chance)
    again, engine = collect(tmp_path / "log", verifier=verifier, **options)
    assert contents(again.groups) == contents(unkilled.groups)
    assert not engine.requests
    assert sorted(verifier.verified) == sorted(f"s3.p{i}.1.1" for i in range(PROMPTS))
    # now every row has a verdict; one of other rewards has none that stands
    verifier = FakeVerifier(right_by_chance)
    other = open_log(tmp_path / "log", grading="other rewards")
    _, engine = collect(tmp_path / "log", verifier=verifier, log=other, **options)
    assert len(verifier.verified) == 2 * PROMPTS and not engine.requests


def test_rounds_of_dynamic_sampling_go_on_where_they_were(tmp_path):
    """Rounds of 4 prompts until 6 groups are mixed; killed in the third round."""

    def sample(folder, dies_after=None):
        engine, prompts = SeededEngine(dies_after=dies_after, policy_version=2), step_prompts(40)
        sampler = DynamicSampler(
            make_controller(engine, open_log(folder), num_stages=1, responses_per_stage=4),
            lambda count: [prompts.pop(0) for _ in range(min(count, len(prompts)))],
            layout=ParallelLayout(),
            prompts_per_step=6,
            prompts_per_round=4,
            max_rounds=10,
            gather_over_replicas=lambda value: [value],
        )
        return sampler.collect(step=3, policy_version=2), engine

    unkilled, whole = sample(tmp_path / "whole")
    assert len(whole.requests) > 40 and unkilled.discarded
    with pytest.raises(RolloutEngineError):
        sample(tmp_path / "log", dies_after=37)
    again, engine = sample(tmp_path / "log")
    assert contents(again.groups) == contents(unkilled.groups)
    assert contents(again.discarded) == contents(unkilled.discarded)
    assert len(engine.requests) == len(whole.requests) - 37
    assert len(again.restored) == 37


def test_the_ledger_balances_with_what_this_process_was_answered(tmp_path):
    """17 responses came from the log: the servers of this process have not answered them."""
    kill(tmp_path / "log", 17)
    engine, log = SeededEngine(policy_version=2), open_log(tmp_path / "log")
    controller = make_controller(engine, log)
    prompts = step_prompts(PROMPTS)

    def count_answered() -> ServerUsage:
        tokens = [
            scored.response.num_tokens
            for scored in all_of(controller.last.groups)
            if scored.response.response_id in set(engine.finished)
        ]
        return ServerUsage(requests=len(engine.finished), generated_tokens=sum(tokens))

    class Keeping:
        def collect(self, *arguments, **options):
            controller.last = controller_collect(*arguments, **options)
            return controller.last

    controller_collect = controller.collect
    ledger = Ledger(tmp_path / "dp00.jsonl", lambda: [], seen=count_answered)
    FixedSampler(
        Keeping(),
        lambda count: prompts,
        layout=ParallelLayout(),
        prompts_per_step=PROMPTS,
        ledger=ledger,
    ).collect(step=3, policy_version=2)
    assert len(controller.last.restored) == 17
    assert ledger._answered == count_answered()


def all_of(groups):
    return [scored for group in groups for scored in group.responses]


def test_files_are_removed_up_to_the_oldest_checkpoint(tmp_path):
    for step in (1, 2, 10, 100_000):
        for dp_size in (1, 2):
            (tmp_path / f"step_{step:05d}.dp00-of-{dp_size:02d}.jsonl").write_text("")
    (tmp_path / "step_00001.notes.jsonl").write_text("a user's own")
    open_log(tmp_path).remove_up_to(10)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [
        "step_00001.notes.jsonl",
        "step_100000.dp00-of-01.jsonl",
        "step_100000.dp00-of-02.jsonl",
    ]


def test_no_replica_removes_the_file_that_another_has_open(tmp_path):
    """Two replicas sample step 3, and its checkpoint is kept. Either comes by for its own file, which is closed first,
    and for those of other layouts; on NFS an fsync of a file that another node has removed is an error."""
    (tmp_path / "step_00003.dp00-of-04.jsonl").write_text("")
    synced = []
    logs = [open_log(tmp_path, dp_rank=rank, dp_size=2) for rank in range(2)]
    for rank, log in enumerate(logs):
        collected, _ = collect(tmp_path, dp_rank=rank, dp_size=2)
        log.open_step(3)
        asyncio.run(log.append(collected.groups[0].responses[0]))
        assert log._file is not None
        log._file._fsync = lambda fd: synced.append(os.fstat(fd).st_nlink)
    logs[0].remove_up_to(3)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00003.dp01-of-02.jsonl"]
    logs[1].remove_up_to(3)
    assert list(tmp_path.iterdir()) == []
    for log in logs:
        log.close()
    assert (
        len(synced) == 4 and 0 not in synced
    )  # each file and its folder, while the file was there


def test_an_owner_that_was_taken_over_from_writes_no_row(tmp_path):
    def check() -> None:
        raise ValueError("taken over")

    with pytest.raises(ValueError, match="taken over"):
        collect(tmp_path, log=open_log(tmp_path, check_ownership=check))
    assert rows_in(tmp_path) == 0


def test_a_full_disk_names_the_file(tmp_path):
    log = open_log(tmp_path)
    log.open_step(3)
    path = tmp_path / "step_00003.dp00-of-01.jsonl"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        collect(tmp_path, log=log)


def test_evaluation_is_not_in_the_log(tmp_path):
    log = open_log(tmp_path)
    controller = make_controller(SeededEngine(), log)
    prompts = [p.prompt for p in step_prompts(3)]
    controller.sample(
        prompts, num_samples=2, sampling=controller.sampling, seed_key="eval", policy_version=0
    )
    assert rows_in(tmp_path) == 0
