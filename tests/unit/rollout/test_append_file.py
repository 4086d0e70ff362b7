import threading
import time

import pytest

from megatron_ar3po.disk_faults import describe_disk_fault
from megatron_ar3po.rollout.append_file import AppendFile


def test_a_line_is_there_for_others_as_soon_as_it_is_appended(tmp_path):
    file = AppendFile(tmp_path / "new" / "rows", sync_s=60)
    file.append(b"one\n")
    assert file.path.read_bytes() == b"one\n"
    file.close()


def test_what_a_killed_process_left_half_written_spoils_no_line_of_the_next(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b"whole\nha")
    file = AppendFile(path, sync_s=0)
    file.append(b"next\n")
    file.close()
    assert path.read_bytes() == b"whole\nha\nnext\n"


def test_lines_are_on_the_disk_within_the_interval_without_anybody_asking(tmp_path):
    """One sync for many lines, and of the folder that has the file's name; none where nothing was appended."""
    synced = threading.Semaphore(0)
    calls = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        synced.release()

    file = AppendFile(tmp_path / "rows", sync_s=0.05, fsync=fsync)
    for _ in range(10):
        file.append(b"line\n")
    assert synced.acquire(timeout=5) and synced.acquire(timeout=5)
    time.sleep(0.2)
    file.close()
    assert len(calls) <= 3  # ten lines may fall into two intervals


def test_close_brings_the_rest_to_the_disk(tmp_path):
    calls = []
    file = AppendFile(tmp_path / "rows", sync_s=60, fsync=calls.append)
    file.append(b"line\n")
    assert calls == []
    file.close()
    assert len(calls) == 2  # the file and the folder


def test_a_full_disk_is_one_sentence_with_the_path(tmp_path):
    path = tmp_path / "rows"
    path.symlink_to("/dev/full")
    file = AppendFile(path, sync_s=60)
    with pytest.raises(OSError, match="No space left on device") as raised:
        file.append(b"line\n")
    assert f"{path} cannot be written: No space left on device" in describe_disk_fault(raised.value)


def test_a_sync_that_fails_ends_the_run_at_the_next_line(tmp_path):
    synced = threading.Event()

    def fsync(descriptor: int) -> None:
        synced.set()
        raise OSError(28, "No space left on device")

    file = AppendFile(tmp_path / "rows", sync_s=0.01, fsync=fsync)
    file.append(b"line\n")
    assert synced.wait(timeout=5)
    file._thread.join(timeout=5)
    with pytest.raises(OSError, match=f"No space left on device: '{file.path}'"):
        file.append(b"line\n")


def test_a_file_in_the_way_of_the_folder_is_one_sentence(tmp_path):
    (tmp_path / "ledger").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        AppendFile(tmp_path / "ledger" / "rows", sync_s=0)
