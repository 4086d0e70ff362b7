"""Which checkpoint a resume takes and which ones stay, whatever happened to the folder before."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from harness.tiny_disk import mount_tiny_disk

from megatron_ar3po.disk_faults import NoRoomError
from megatron_ar3po.run.checkpoint_folder import CheckpointFolder
from megatron_ar3po.run.manifest import NAME as MANIFEST
from megatron_ar3po.run.state import RunState, read_state


def save(folder: CheckpointFolder, step: int) -> Path:
    state = RunState(step=step, policy_version=step, totals={"rollout/responses_total": 7.0})
    return folder.commit(folder.begin(step), state)


def names(path: Path) -> list[str]:
    return sorted(p.name for p in path.glob("step_*"))


def run_with(path: Path, *steps: int, keep_last: int = 9) -> CheckpointFolder:
    folder = CheckpointFolder(path, keep_last=keep_last)
    for step in steps:
        save(folder, step)
    return folder


def contents(path: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_a_committed_checkpoint_is_the_newest_and_reads_back(tmp_path):
    folder = CheckpointFolder(tmp_path, keep_last=2)
    path = save(folder, 3)
    assert folder.newest() == path == tmp_path / "step_00003"
    assert read_state(path) == RunState(
        step=3, policy_version=3, totals={"rollout/responses_total": 7.0}
    )


def test_the_newest_and_its_ancestors_stay_as_many_as_are_kept(tmp_path):
    folder = run_with(tmp_path, 1, 2, 3, keep_last=2)
    assert names(tmp_path) == ["step_00002", "step_00003"]
    assert folder.oldest().step == 2


def test_a_checkpoint_that_was_not_finished_is_not_the_newest(tmp_path):
    folder = run_with(tmp_path, 1)
    folder.begin(2)
    assert folder.newest() == tmp_path / "step_00001"


def test_nothing_saved_gives_none(tmp_path):
    assert CheckpointFolder(tmp_path, keep_last=1).newest() is None


@pytest.mark.parametrize("keep_last", [1, 2])
@pytest.mark.parametrize(
    ("abandoned", "left"), [("keep", ["step_00004", "step_00006"]), ("delete", [])]
)
def test_going_back_keeps_what_is_committed_next_and_puts_the_other_line_aside(
    tmp_path, keep_last, abandoned, left
):
    """Checkpoints 2, 4, 6; the user writes step_00002 into `latest`, resumes, and step 3 is saved."""
    run_with(tmp_path, 2, 4, 6)
    (tmp_path / "latest").write_text("step_00002\n")
    folder = CheckpointFolder(tmp_path, keep_last=keep_last, abandoned=abandoned)
    newest = folder.newest()
    assert newest == tmp_path / "step_00002"
    folder.go_on_from(newest)
    save(folder, 3)
    assert folder.newest() == tmp_path / "step_00003"
    assert names(tmp_path) == ["step_00002", "step_00003"][-keep_last:]
    assert names(tmp_path / "abandoned") == left


def test_a_step_that_the_other_line_has_too_does_not_replace_it_unseen(tmp_path):
    folder = run_with(tmp_path, 2, 4)
    before = (tmp_path / "step_00004/state.json").read_bytes()
    for _ in range(2):
        folder.go_on_from(tmp_path / "step_00002")
        folder.commit(folder.begin(4), RunState(step=4, policy_version=77))
    assert read_state(tmp_path / "step_00004").policy_version == 77
    assert names(tmp_path / "abandoned") == ["step_00004", "step_00004.2"]
    assert (tmp_path / "abandoned/step_00004/state.json").read_bytes() == before


def killed_before_the_marker(path: Path) -> CheckpointFolder:
    """Step 4 was renamed; `latest` names step 2 still."""
    folder = run_with(path, 2)
    marker = (path / "latest").read_bytes()
    times = (path / "latest").stat()
    save(folder, 4)
    (path / "latest").write_bytes(marker)
    os.utime(path / "latest", ns=(times.st_atime_ns, times.st_mtime_ns))
    (path / "committing").write_text("step_00004")
    return CheckpointFolder(path, keep_last=2)


def test_a_step_that_the_other_line_has_too_makes_room_where_that_line_is_deleted(tmp_path):
    """The new step_00004 is on its way as step_00004.tmp when the old one goes."""
    run_with(tmp_path, 2, 4, 6)
    (tmp_path / "latest").write_text("step_00002\n")
    folder = CheckpointFolder(tmp_path, keep_last=2, abandoned="delete")
    folder.go_on_from(tmp_path / "step_00002")
    save(folder, 4)
    assert folder.newest() == tmp_path / "step_00004"
    assert [p.name for p in folder.lineage(tmp_path / "step_00004")] == ["step_00004", "step_00002"]
    assert names(tmp_path) == ["step_00002", "step_00004"]


def test_checkpoints_that_name_one_another_are_a_line_that_ends(tmp_path):
    """step_00002 was put in the place of its own child by hand, and the other way round."""
    folder = run_with(tmp_path, 2, 4)
    for name in ("step_00002", "step_00004"):
        (tmp_path / name).rename(tmp_path / f"{name}.aside")
    (tmp_path / "step_00002.aside").rename(tmp_path / "step_00004")
    (tmp_path / "step_00004.aside").rename(tmp_path / "step_00002")
    line = folder.lineage(tmp_path / "step_00002")
    assert [p.name for p in line] == ["step_00002"]


def test_killed_between_rename_and_marker_the_committed_one_is_found(tmp_path):
    assert killed_before_the_marker(tmp_path).newest() == tmp_path / "step_00004"


def test_killed_between_the_note_and_the_rename_the_one_before_is_found(tmp_path):
    folder = killed_before_the_marker(tmp_path)
    (tmp_path / "step_00004").rename(tmp_path / "step_00004.tmp")
    assert folder.newest() == tmp_path / "step_00002"


def test_killed_after_the_marker_a_later_choice_of_the_user_is_obeyed(tmp_path):
    run_with(tmp_path, 2, 4)
    (tmp_path / "committing").write_text("step_00004")
    moved = (tmp_path / "committing").stat().st_mtime_ns + 1_000_000
    (tmp_path / "latest").write_text("step_00002")
    os.utime(tmp_path / "latest", ns=(moved, moved))
    assert CheckpointFolder(tmp_path, keep_last=2).newest() == tmp_path / "step_00002"


@pytest.mark.parametrize("marker", [None, "", "step_", "rubbish"])
def test_without_a_readable_marker_whole_checkpoints_are_named_as_choices(tmp_path, marker):
    run_with(tmp_path, 2, 4)
    (tmp_path / "latest").unlink()
    if marker is not None:
        (tmp_path / "latest").write_text(marker)
    before = contents(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"latest is missing or empty, but .* holds step_00002, step_00004; write the name",
    ):
        CheckpointFolder(tmp_path, keep_last=2).newest()
    assert contents(tmp_path) == before


def test_a_marker_that_names_what_is_gone_names_the_choices(tmp_path):
    run_with(tmp_path, 2, 4)
    shutil.rmtree(tmp_path / "step_00004")
    with pytest.raises(
        ValueError, match=r"names step_00004, which is gone, but .* holds step_00002;"
    ):
        CheckpointFolder(tmp_path, keep_last=2).newest()


def test_a_marker_without_any_checkpoint_says_what_to_do(tmp_path):
    (tmp_path / "latest").write_text("step_00009")
    with pytest.raises(
        ValueError, match=r"names step_00009, which is gone, and .* no checkpoint any"
    ):
        CheckpointFolder(tmp_path, keep_last=1).newest()


def test_beyond_99999_steps_order_rotation_and_oldest_are_right(tmp_path):
    folder = run_with(tmp_path, 99_998, 99_999, 100_000, 1_000_000, keep_last=2)
    assert names(tmp_path) == ["step_100000", "step_1000000"]
    assert folder.newest() == tmp_path / "step_1000000"
    assert folder.oldest().step == 100_000
    assert [p.name for p in folder.checkpoints()] == ["step_100000", "step_1000000"]


def as_of_before(path: Path, *steps: int) -> CheckpointFolder:
    """As a version without manifests wrote them."""
    for step in steps:
        folder = path / f"step_{step:05d}"
        (folder / "model").mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps(asdict(RunState(step=step))))
    (path / "latest").write_text(f"step_{steps[-1]:05d}")
    return CheckpointFolder(path, keep_last=2)


def test_checkpoints_of_a_version_without_manifests_are_a_line_by_number(tmp_path):
    folder = as_of_before(tmp_path, 2, 4)
    newest = folder.newest()
    assert newest is not None
    assert [p.name for p in folder.lineage(newest)] == ["step_00004", "step_00002"]
    folder.go_on_from(newest)
    save(folder, 6)
    assert names(tmp_path) == ["step_00004", "step_00006"]
    assert (tmp_path / "step_00006" / MANIFEST).is_file()


def test_what_a_kill_left_in_the_middle_is_cleared_by_the_next_save(tmp_path):
    folder = run_with(tmp_path, 2)
    folder.begin(4)
    (tmp_path / "step_00001.tmp").mkdir()  # killed while an old one was deleted
    save(folder, 3)
    assert names(tmp_path) == ["step_00002", "step_00003"]


@pytest.mark.parametrize("content", ["", "{", '{"stop": 1}'])
def test_an_older_checkpoint_that_was_damaged_since_does_not_end_the_run(tmp_path, content, caplog):
    """It was just written down that step 6 is whole; no resume can go back to step 2 any more."""
    folder = run_with(tmp_path, 2, 4, 6)
    (tmp_path / "step_00002/state.json").write_text(content)
    assert folder.oldest().step == 4
    assert "step_00002/state.json cannot be read any more" in caplog.text


def test_a_checkpoint_that_would_not_fit_is_not_begun(tmp_path):
    """On a disk of 2 MiB: the first by its estimate, the next by what the one before took, here 1.2 MiB."""
    with mount_tiny_disk(tmp_path / "disk", mib=2) as disk:
        path = disk.path / "checkpoints"
        with pytest.raises(NoRoomError, match=r"room for 2\.0 MiB of the 3\.0 MiB"):
            CheckpointFolder(path, keep_last=1, first_bytes=3 * 2**20).begin(1)
        assert not path.exists()
        folder = CheckpointFolder(path, keep_last=1, first_bytes=2**20)
        begun = folder.begin(1)
        (begun / "model/weights").write_bytes(bytes(1_258_291))
        folder.commit(begun, RunState(step=1))
        assert "of the 1.2 MiB that a checkpoint takes" in folder.missing_room()
        with pytest.raises(NoRoomError, match="so none was begun; make room"):
            folder.begin(2)
        assert names(path) == ["step_00001"]
        assert folder.newest() == path / "step_00001"


def test_what_a_killed_save_has_left_counts_as_room(tmp_path):
    """A disk of 3 MiB: a checkpoint of 1.2 MiB and half a one of 1.5 MiB, which goes before the next is begun."""
    with mount_tiny_disk(tmp_path / "disk", mib=3) as disk:
        folder = CheckpointFolder(disk.path / "checkpoints", keep_last=1)
        begun = folder.begin(1)
        (begun / "model/weights").write_bytes(bytes(1_258_291))
        folder.commit(begun, RunState(step=1))
        (folder.begin(2) / "model/weights").write_bytes(bytes(1_572_864))
        again = CheckpointFolder(disk.path / "checkpoints", keep_last=1)
        again.check_room()
        assert again.begin(2).is_dir()
