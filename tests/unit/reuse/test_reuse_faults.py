"""Bad files, bad disks, second writers: each is one clear sentence, and what was committed stays.

Left out here: real power loss (test_reuse_power_loss.py) and a really full disk (tests/chaos).
"""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import shutil
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.reuse_cases import (
    FINGERPRINT,
    alive,
    contents,
    deposit,
    make_prompt,
    make_response,
    open_store,
)

from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.folder_owner import (
    FolderOwnedError,
    FolderOwner,
    this_process,
    write_note,
)
from megatron_ar3po.reuse.admin.maintenance import collect_garbage, reshard
from megatron_ar3po.reuse.database import ReuseStoreError
from megatron_ar3po.reuse.opening import claim_shard
from megatron_ar3po.reuse.owner import note_of
from megatron_ar3po.reuse.store import ReuseStore


def fill(folder: Path, num_prompts: int = 20) -> Path:
    with open_store(folder) as store:
        responses = [
            make_response(make_prompt(n), step=1, num_tokens=300) for n in range(num_prompts)
        ]
        deposit(store, responses, step=1)
        return store.path


@pytest.mark.parametrize("num_bytes", [0, 1, 100, 4096, 20_000])
def test_a_truncated_shard_is_refused_when_it_is_opened(tmp_path: Path, num_bytes: int) -> None:
    path = fill(tmp_path)
    os.truncate(path, num_bytes)
    with pytest.raises(ReuseStoreError, match=r"is damaged|is not a shard"):
        open_store(tmp_path)
    assert path.stat().st_size == num_bytes  # nothing was made up in its place


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dp00_of_01.sqlite").write_bytes(b"hello" * 2000)
    with pytest.raises(ReuseStoreError, match="is damaged"):
        open_store(tmp_path)


def test_a_response_with_a_flipped_bit_is_never_lent(tmp_path: Path) -> None:
    path = fill(tmp_path, num_prompts=1)
    needle = make_response(make_prompt(0), step=1, num_tokens=300).response.logprobs.tobytes()[:64]
    content = bytearray(path.read_bytes())
    content[content.index(needle) + 10] ^= 0x04
    path.write_bytes(content)
    with (
        open_store(tmp_path) as store,
        pytest.raises(ReuseStoreError, match=r"s1-p0-i0 is damaged.*ar3po reuse verify"),
    ):
        store.borrow(make_prompt(0).prompt_id, step=2)


def test_a_second_store_on_a_shard_is_refused_in_the_same_process(tmp_path: Path) -> None:
    with open_store(tmp_path):
        with pytest.raises(ReuseStoreError, match=r"has another writer: .*\(this very process\)"):
            open_store(tmp_path)
    open_store(tmp_path).close()


def test_a_second_writer_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    def hold(ready, done) -> None:
        with open_store(tmp_path):
            ready.set()
            done.wait(60)

    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(ready, done))
    holder.start()
    try:
        assert ready.wait(60)
        with pytest.raises(ReuseStoreError, match=rf"has another writer: process {holder.pid} on "):
            open_store(tmp_path)
    finally:
        done.set()
        holder.join(60)
    open_store(tmp_path).close()


def test_a_writer_that_was_taken_over_from_changes_nothing_more(tmp_path: Path) -> None:
    """It was stopped for long, and another process has the shard now."""
    store = open_store(tmp_path)
    deposit(store, [make_response(make_prompt(1), step=1)], step=1)
    note = note_of(store.path)
    write_note(note, replace(this_process(), token="of another"))
    before = store.path.read_bytes()
    for write in (
        lambda: deposit(store, [make_response(make_prompt(2), step=2)], step=2),
        lambda: store.rollback({"step": 0}),
        lambda: store.commit_checkpoint({"step": 1}),
    ):
        with pytest.raises(FolderOwnedError, match=r"dp00_of_01.sqlite was taken over by process"):
            write()
    store.close()
    assert store.path.read_bytes() == before
    assert "of another" in note.read_text()


def test_a_command_changes_no_store_whose_run_is_under_way(tmp_path: Path) -> None:
    """A run that is starting at another size reads shards that it does not own."""
    fill(tmp_path / "reuse")
    run = FolderOwner.claim(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "reuse").glob("*.sqlite")}
    for change in (
        lambda: collect_garbage(tmp_path, max_age_steps=1),
        lambda: reshard(tmp_path, dp_size=2),
    ):
        with pytest.raises(ReuseStoreError, match=r"belongs to a run that is under way: process"):
            change()
    assert {path: path.read_bytes() for path in (tmp_path / "reuse").glob("*.sqlite")} == before
    run.release()
    assert reshard(tmp_path, dp_size=2).dp_size == 2


@pytest.mark.parametrize("name", ["run", "model", "tokenizer"])
def test_a_shard_of_another_run_model_or_tokenizer_is_refused(tmp_path: Path, name: str) -> None:
    fill(tmp_path)
    with pytest.raises(
        ReuseStoreError, match=f"answers of another {name} '.*' \\(expected 'other'\\)"
    ):
        ReuseStore.open(
            tmp_path,
            dp_rank=0,
            dp_size=1,
            config=ReuseConfig(),
            run_seed=0,
            fingerprint=replace(FINGERPRINT, **{name: "other"}),
        )


def open_graded(folder: Path, *, dp_size: int = 1, **verdicts: str) -> ReuseStore:
    return ReuseStore.open(
        folder,
        dp_rank=0,
        dp_size=dp_size,
        config=ReuseConfig(),
        run_seed=0,
        fingerprint=replace(
            FINGERPRINT, verdicts={f"rewards.{name}": value for name, value in verdicts.items()}
        ),
    )


def test_a_store_of_other_verdicts_is_refused_with_the_settings_old_and_new(tmp_path: Path) -> None:
    """A store of a version that noted none is taken as it is, and is of these settings from then on."""
    before = contents(fill(tmp_path))
    store = open_graded(tmp_path, correct="1.0", verifier="math")
    store.close()
    assert contents(store.path) == before
    open_graded(tmp_path, correct="1.0", verifier="math").close()
    open_graded(tmp_path, correct="1.0", verifier="math", new_option="7").close()
    said = r"graded with rewards.correct=1.0, here it is rewards.correct=2.0: .*reuse regrade RUN"
    for dp_size in (1, 2):
        with pytest.raises(ReuseStoreError, match=said):
            open_graded(tmp_path, dp_size=dp_size, correct="2.0", verifier="math")
    open_graded(tmp_path, correct="1.0", verifier="math").close()


def test_an_empty_store_takes_the_settings_of_who_opens_it(tmp_path: Path) -> None:
    for correct in ("1.0", "2.0"):
        open_graded(tmp_path, correct=correct).close()
    fill(tmp_path)
    with pytest.raises(ReuseStoreError, match=r"graded with rewards\.correct=2\.0"):
        open_graded(tmp_path, correct="1.0")


def test_a_moved_tokenizer_folder_is_no_reason_to_refuse(tmp_path: Path) -> None:
    fingerprint = replace(FINGERPRINT, tokenizer_path="/elsewhere")
    before = contents(fill(tmp_path))
    store = ReuseStore.open(
        tmp_path, dp_rank=0, dp_size=1, config=ReuseConfig(), run_seed=0, fingerprint=fingerprint
    )
    store.close()
    assert before and contents(store.path) == before


def test_a_schema_from_a_newer_program_is_refused(tmp_path: Path) -> None:
    path = fill(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(
        ReuseStoreError, match="has schema version 99, this program knows 2; use the newer"
    ):
        open_store(tmp_path)


def test_a_renamed_shard_is_refused(tmp_path: Path) -> None:
    fill(tmp_path).rename(tmp_path / "dp00_of_02.sqlite")
    shutil.copy(tmp_path / "dp00_of_02.sqlite", tmp_path / "dp01_of_02.sqlite")
    with pytest.raises(ReuseStoreError, match="was made for data-parallel rank 0 of 1"):
        open_store(tmp_path, dp_size=2)


def test_a_full_disk_loses_nothing_that_was_deposited_and_the_store_goes_on(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        first = [make_response(make_prompt(n), step=1, num_tokens=300) for n in range(20)]
        # 20 x 21 kB: more than the three pages that are left
        second = [make_response(make_prompt(n), step=2, num_tokens=3000) for n in range(20, 40)]
        deposit(store, first, step=1)
        (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
        store._connection.execute(f"PRAGMA max_page_count = {pages + 3}")
        with pytest.raises(ReuseStoreError, match="no space left on the disk of"):
            deposit(store, second, step=2)
        assert len(store) == 20 == len(alive(store.path))
        store._connection.execute("PRAGMA max_page_count = 1000000")
        assert deposit(store, second, step=2) == 20
        assert len(store) == 40 == len(alive(store.path))


def test_a_mount_without_file_locks_is_named_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with pytest.raises(ReuseStoreError, match=r"has no file locks .*Lustre: mount with -o flock"):
        open_store(tmp_path)


def test_a_folder_that_may_not_be_written_to_is_named(tmp_path: Path) -> None:
    """As another user where the test is run by root, whom permissions do not stop."""
    folder = Path(tempfile.mkdtemp(prefix="ar3po-reuse-"))
    path = fill(folder)
    folder.chmod(0o555)
    path.chmod(0o444)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def try_to_open() -> None:
        if os.getuid() == 0:
            os.setuid(65534)
        try:
            open_store(folder).close()
            sender.send("opened")
        except ReuseStoreError as error:
            sender.send(str(error))

    child = context.Process(target=try_to_open)
    child.start()
    try:
        assert receiver.poll(60)
        assert "needs a folder it may write to" in receiver.recv()
    finally:
        child.join(60)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_folder_with_a_shard_missing_is_refused(tmp_path: Path) -> None:
    for rank in (0, 1):
        with open_store(tmp_path, dp_rank=rank, dp_size=2) as store:
            deposit(store, [make_response(make_prompt(rank), step=1)], step=1)
    (tmp_path / "dp01_of_02.sqlite").unlink()
    for _ in range(
        2
    ):  # no empty shard takes its place, which a second try would take for the lost one
        claim = claim_shard(
            tmp_path, dp_rank=1, dp_size=2, run_seed=0, fingerprint=FINGERPRINT
        )  # might be the very first start: no error yet
        with pytest.raises(ReuseStoreError, match=r"is missing while other shards"):
            claim.check_rollback({"step": 1})
        claim.release()
    with pytest.raises(
        ReuseStoreError, match=r"only a part of its shards: dp01_of_02.sqlite is missing"
    ):
        open_store(tmp_path, dp_size=4)


def test_a_resume_after_the_whole_folder_was_removed_starts_with_an_empty_store(
    tmp_path: Path,
) -> None:
    with open_store(tmp_path, dp_rank=1, dp_size=2) as store:
        store.rollback({"step": 9})
        assert store.cursor == {"step": 9} and len(store) == 0


def test_an_error_in_the_middle_of_a_deposit_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    good, bad = make_response(make_prompt(1), step=1), make_response(make_prompt(2), step=1)
    bad = replace(bad, response=replace(bad.response, logprobs=bad.response.logprobs[:-1]))
    with open_store(tmp_path) as store:
        with pytest.raises(ValueError, match="every sampled token needs its log-prob"):
            deposit(store, [good, bad], step=1)
        assert len(store) == 0 and store.borrow(make_prompt(1).prompt_id, step=2) is None
        assert alive(store.path) == set()
