"""What a resume finds, whenever the run was killed. Not here: what Megatron writes (tests/parallel), and the kill of a
whole run (tests/e2e)."""

from collections.abc import Iterator

import pytest
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.run.checkpoints import CheckpointFolder, CheckpointSaver
from megatron_ar3po.run.state import RunState, read_state


def save(folder: CheckpointFolder, step: int):
    state = RunState(step=step, policy_version=step, totals={"rollout/responses_total": 7.0})
    return folder.commit(folder.begin(step), state)


def test_a_committed_checkpoint_is_the_latest_and_reads_back(tmp_path):
    folder = CheckpointFolder(tmp_path, keep_last=2)
    path = save(folder, 3)
    assert folder.latest() == path == tmp_path / "step_00003"
    assert read_state(path) == RunState(
        step=3, policy_version=3, totals={"rollout/responses_total": 7.0}
    )


def test_only_the_newest_stay(tmp_path):
    folder = CheckpointFolder(tmp_path, keep_last=2)
    for step in (1, 2, 3):
        save(folder, step)
    assert sorted(p.name for p in tmp_path.glob("step_*")) == ["step_00002", "step_00003"]


def test_a_checkpoint_that_was_not_finished_is_not_the_latest(tmp_path):
    folder = CheckpointFolder(tmp_path, keep_last=2)
    save(folder, 1)
    folder.begin(2)
    assert folder.latest() == tmp_path / "step_00001"


def test_nothing_saved_gives_none(tmp_path):
    assert CheckpointFolder(tmp_path, keep_last=1).latest() is None


def test_a_marker_that_names_nothing_says_what_to_do(tmp_path):
    (tmp_path / "latest").write_text("step_00009")
    with pytest.raises(ValueError, match=r"step_00009, which is not a whole checkpoint"):
        CheckpointFolder(tmp_path, keep_last=1).latest()


class SlowSave:
    """Written after it has been asked `waits` times; then `finish` writes a file, or fails."""

    def __init__(self, folder, waits: float, failure: str = "") -> None:
        self.folder, self.waits, self.failure = folder, waits, failure
        self.finished = False

    def is_written(self) -> bool:
        self.waits -= 1
        return self.waits < 0

    def finish(self) -> None:
        assert self.waits < 0, "finished before it was written"
        if self.failure:
            raise RuntimeError(self.failure)
        (self.folder / "weights").write_text("whole")
        self.finished = True


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield Ranks(ParallelLayout(), 30.0)
    dist.destroy_process_group()


class Saving:
    def __init__(self, path, ranks: Ranks, *, waits: float, failure: str = "", timeout_s=30.0):
        self.folder = CheckpointFolder(path, keep_last=2)
        self.committed: list[int] = []
        self.saves: list[SlowSave] = []
        self._make = lambda folder: SlowSave(folder, waits, failure)
        self.saver = CheckpointSaver(
            self.folder, ranks, self._save, self._commit, timeout_s=timeout_s
        )

    def _save(self, folder) -> SlowSave:
        self.saves.append(self._make(folder))
        return self.saves[-1]

    def _commit(self, oldest: RunState) -> None:
        self.committed.append(oldest.step)


def test_training_goes_on_and_the_marker_moves_when_all_is_written(tmp_path, ranks):
    saving = Saving(tmp_path, ranks, waits=2)
    save(saving.folder, 1)
    saving.saver.start(RunState(step=4))
    for _ in range(2):  # two steps of training meanwhile
        assert saving.saver.poll() is None
        assert saving.folder.latest() == tmp_path / "step_00001"
        assert saving.committed == []
    assert saving.saver.poll() == saving.folder.latest() == tmp_path / "step_00004"
    assert (tmp_path / "step_00004/model/weights").read_text() == "whole"
    assert saving.committed == [1]  # a resume may still go back to step 1
    assert saving.saver.poll() is None


def test_a_crash_in_the_middle_leaves_the_checkpoint_before_and_its_rest_is_cleared(
    tmp_path, ranks
):
    saving = Saving(tmp_path, ranks, waits=float("inf"))
    save(saving.folder, 1)
    saving.saver.start(RunState(step=4))
    saving.saver.poll()
    assert (tmp_path / "step_00004.tmp").is_dir()
    again = Saving(tmp_path, ranks, waits=0)  # the process is gone, another one resumes
    assert again.folder.latest() == tmp_path / "step_00001"
    again.saver.start(RunState(step=2))
    again.saver.wait()
    assert sorted(p.name for p in tmp_path.glob("step_*")) == ["step_00001", "step_00002"]


def test_the_next_checkpoint_waits_for_the_one_before(tmp_path, ranks):
    saving = Saving(tmp_path, ranks, waits=3)
    saving.saver.start(RunState(step=1))
    saving.saver.start(RunState(step=2))
    assert [s.finished for s in saving.saves] == [True, False]
    assert saving.folder.latest() == tmp_path / "step_00001"
    saving.saver.wait()
    assert saving.folder.latest() == tmp_path / "step_00002"


def test_one_that_is_never_written_ends_the_wait_with_the_name_of_the_limit(tmp_path, ranks):
    saving = Saving(tmp_path, ranks, waits=float("inf"), timeout_s=0.2)
    saving.saver.start(RunState(step=1))
    with pytest.raises(RuntimeError, match=r"checkpoint\.timeout_s=0\.2; raise it, or look at the"):
        saving.saver.wait()


def test_a_disk_that_is_full_is_an_error_of_the_run_and_no_checkpoint(tmp_path, ranks):
    saving = Saving(tmp_path, ranks, waits=0, failure="No space left on device")
    save(saving.folder, 1)
    saving.saver.start(RunState(step=2))
    with pytest.raises(RuntimeError, match="No space left on device"):
        saving.saver.poll()
    assert saving.folder.latest() == tmp_path / "step_00001"
