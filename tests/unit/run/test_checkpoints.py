"""A checkpoint on its way to the disk, and the choice of the one to resume from. Not here: what Megatron writes
(tests/parallel), and the kill of a whole run (tests/e2e)."""

from collections.abc import Iterator

import pytest
import torch.distributed as dist
import xxhash
from torch._C._distributed_c10d import HashStore

from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.file_digests import FileDigest
from megatron_ar3po.folder_owner import FolderOwnedError
from megatron_ar3po.run.checkpoint_folder import CheckpointFolder
from megatron_ar3po.run.checkpoints import CheckpointSaver, choose_checkpoint
from megatron_ar3po.run.state import RunState


def save(folder: CheckpointFolder, step: int):
    return folder.commit(folder.begin(step), RunState(step=step, policy_version=step))


class SlowSave:
    """Written after it has been asked `waits` times; then `finish` writes a file, or fails."""

    def __init__(self, folder, waits: float, failure: str = "") -> None:
        self.folder, self.waits, self.failure = folder, waits, failure
        self.finished = False

    def is_written(self) -> bool:
        self.waits -= 1
        return self.waits < 0

    def finish(self) -> dict[str, FileDigest]:
        assert self.waits < 0, "finished before it was written"
        if self.failure:
            raise RuntimeError(self.failure)
        (self.folder / "weights").write_text("whole")
        self.finished = True
        return {"weights": FileDigest(5, xxhash.xxh3_128_hexdigest(b"whole"))}


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
        self.is_taken_over = False
        self.saver = CheckpointSaver(
            self.folder,
            ranks,
            self._save,
            self._commit,
            timeout_s=timeout_s,
            check_ownership=self._check_ownership,
        )

    def _save(self, folder) -> SlowSave:
        self.saves.append(self._make(folder))
        return self.saves[-1]

    def _check_ownership(self) -> None:
        if self.is_taken_over:
            raise FolderOwnedError("taken over")

    def _commit(self, oldest: RunState) -> None:
        self.committed.append(oldest.step)


def test_training_goes_on_and_the_marker_moves_when_all_is_written(tmp_path, ranks):
    saving = Saving(tmp_path, ranks, waits=2)
    save(saving.folder, 1)
    saving.saver.start(RunState(step=4))
    for _ in range(2):  # two steps of training meanwhile
        assert saving.saver.poll() is None
        assert saving.folder.newest() == tmp_path / "step_00001"
        assert saving.committed == []
    assert saving.saver.poll() == saving.folder.newest() == tmp_path / "step_00004"
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
    assert again.folder.newest() == tmp_path / "step_00001"
    again.saver.go_on_from(tmp_path / "step_00001")
    again.saver.start(RunState(step=2))
    again.saver.wait()
    assert sorted(p.name for p in tmp_path.glob("step_*")) == ["step_00001", "step_00002"]


def test_a_run_that_was_taken_over_begins_and_commits_no_checkpoint(tmp_path, ranks):
    """Another process is in the middle of its own, which is not cleared away either."""
    saving = Saving(tmp_path, ranks, waits=1)
    save(saving.folder, 1)
    saving.saver.start(RunState(step=2))
    saving.is_taken_over = True
    (tmp_path / "step_00005.tmp").mkdir()
    with pytest.raises(FolderOwnedError):
        saving.saver.wait()
    with pytest.raises(FolderOwnedError):
        saving.saver.start(RunState(step=3))
    assert (tmp_path / "step_00005.tmp").is_dir()
    assert (tmp_path / "latest").read_text() == "step_00001"


def test_the_next_checkpoint_waits_for_the_one_before(tmp_path, ranks):
    saving = Saving(tmp_path, ranks, waits=3)
    saving.saver.start(RunState(step=1))
    saving.saver.start(RunState(step=2))
    assert [s.finished for s in saving.saves] == [True, False]
    assert saving.folder.newest() == tmp_path / "step_00001"
    saving.saver.wait()
    assert saving.folder.newest() == tmp_path / "step_00002"


def test_one_that_is_never_written_ends_the_wait_with_the_name_of_the_limit(tmp_path, ranks):
    saving = Saving(tmp_path, ranks, waits=float("inf"), timeout_s=0.2)
    saving.saver.start(RunState(step=1))
    with pytest.raises(
        RuntimeError, match=r"checkpoint\.timeout_s=0\.2 by rank 0 \(.*\); raise it, or look at"
    ):
        saving.saver.wait()


def test_a_disk_that_is_full_is_an_error_of_the_run_and_no_checkpoint(tmp_path, ranks):
    saving = Saving(tmp_path, ranks, waits=0, failure="No space left on device")
    save(saving.folder, 1)
    saving.saver.start(RunState(step=2))
    with pytest.raises(RuntimeError, match="No space left on device"):
        saving.saver.poll()
    assert saving.folder.newest() == tmp_path / "step_00001"


def test_what_was_summed_up_while_it_was_written_is_what_a_later_look_is_held_against(
    tmp_path, ranks
):
    saving = Saving(tmp_path, ranks, waits=0)
    saving.saver.start(RunState(step=1))
    saving.saver.wait()
    assert choose_checkpoint(saving.folder, ranks) == (tmp_path / "step_00001", "")
    (tmp_path / "step_00001/model/weights").write_text("whale")
    with pytest.raises(
        ValueError, match=r"no whole checkpoint.*step_00001/model/weights does not hold what was w"
    ):
        choose_checkpoint(saving.folder, ranks)


def test_a_damaged_checkpoint_is_passed_over_for_its_parent_and_that_is_said(tmp_path, ranks):
    folder = CheckpointFolder(tmp_path, keep_last=3)
    for step in (2, 4, 6):
        save(folder, step)
    (tmp_path / "step_00006/state.json").write_text("{}")
    (tmp_path / "step_00004/state.json").unlink()
    chosen, note = choose_checkpoint(folder, ranks)
    assert chosen == tmp_path / "step_00002"
    assert "an earlier checkpoint" in note
    assert "step_00006/state.json holds 2 of the" in note
    assert "step_00004/state.json is missing" in note


def test_without_a_checkpoint_the_run_starts_anew_and_says_so(tmp_path, ranks):
    chosen, note = choose_checkpoint(CheckpointFolder(tmp_path, keep_last=1), ranks)
    assert chosen is None and note == f"{tmp_path} holds no checkpoint: the run starts anew"


def test_where_no_step_was_made_since_the_resume_nothing_is_saved_again(tmp_path, ranks):
    saving = Saving(tmp_path, ranks, waits=0)
    path = save(saving.folder, 3)
    before = sorted((p, p.stat().st_mtime_ns) for p in path.rglob("*"))
    saving.saver.go_on_from(path)
    saving.saver.start(RunState(step=3))
    saving.saver.wait()
    assert saving.saves == []
    assert sorted((p, p.stat().st_mtime_ns) for p in path.rglob("*")) == before


def test_a_run_that_is_asked_to_stop_right_after_a_checkpoint_does_not_save_it_again(
    tmp_path, ranks
):
    """It would put the one that is there aside, as if of another line, and become its own parent."""
    saving = Saving(tmp_path, ranks, waits=1)
    for step in (2, 4, 4):
        saving.saver.start(RunState(step=step))
    saving.saver.wait()
    assert len(saving.saves) == 2 and not (tmp_path / "abandoned").exists()
    newest = saving.folder.newest()
    assert newest is not None
    assert [p.name for p in saving.folder.lineage(newest)] == ["step_00004", "step_00002"]


def test_a_checkpoint_without_its_manifest_is_taken_and_that_is_said(tmp_path, ranks):
    folder = CheckpointFolder(tmp_path, keep_last=2)
    newest = save(folder, 2)
    (newest / "manifest.json").unlink()
    chosen, note = choose_checkpoint(folder, ranks)
    assert chosen == newest
    assert note.startswith(f"{newest / 'manifest.json'} is missing (of a version that wrote none")


def test_going_back_to_an_earlier_checkpoint_is_said(tmp_path, ranks):
    """A user writes the name into `latest`; so may a bit that has flipped."""
    folder = CheckpointFolder(tmp_path, keep_last=3)
    for step in (2, 4, 6):
        save(folder, step)
    (tmp_path / "latest").write_text("step_00002")
    chosen, note = choose_checkpoint(folder, ranks)
    assert chosen == tmp_path / "step_00002"
    assert (
        note
        == f"{tmp_path / 'latest'} goes back to step_00002, from which step_00004, step_00006 went on"
    )
