"""Damage to a checkpoint is found and named, file by file."""

import json
from pathlib import Path

import pytest
import xxhash

from megatron_ar3po.file_digests import DigestingFile, FileDigest, digest_file, explain_damage
from megatron_ar3po.run.manifest import (
    NAME,
    DamagedCheckpointError,
    Manifest,
    complete_digests,
    find_damage,
    read_manifest,
    write_manifest,
)

FILES = {
    "state.json": b'{"step": 2}',
    "model/__0_0.distcp": bytes(range(200)),
    "model/.metadata": b"m",
}


def make_checkpoint(folder: Path, parent: str = "step_00001") -> Path:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    write_manifest(folder, Manifest(parent=parent, files=complete_digests(folder, {})))
    return folder


def test_a_whole_checkpoint_has_no_damage_and_names_its_parent(tmp_path):
    folder = make_checkpoint(tmp_path)
    assert find_damage(folder) == ""
    manifest = read_manifest(folder)
    assert manifest is not None and manifest.parent == "step_00001"
    assert manifest.files["state.json"] == FileDigest(11, xxhash.xxh3_128_hexdigest(b'{"step": 2}'))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda p: p.write_bytes(bytes([p.read_bytes()[0] ^ 1]) + p.read_bytes()[1:]), "checksum"),
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "of the"),
        (lambda p: p.write_bytes(b""), "holds 0 of the"),
        (lambda p: p.unlink(), "is missing"),
    ],
    ids=["one bit flipped", "cut", "emptied", "removed"],
)
def test_every_damage_to_every_file_is_found_and_named(tmp_path, name, spoil, what):
    folder = make_checkpoint(tmp_path)
    spoil(folder / name)
    damage = find_damage(folder)
    assert damage.startswith(str(folder / name)) and what in damage


@pytest.mark.parametrize("offset", range(0, 400, 23))
def test_a_byte_flipped_anywhere_in_the_manifest_is_found(tmp_path, offset):
    folder = make_checkpoint(tmp_path)
    content = bytearray((folder / NAME).read_bytes())
    content[offset % len(content)] ^= 1
    (folder / NAME).write_bytes(content)
    assert str(folder / NAME) in find_damage(folder)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b'{"xxh3": "0"}', b"\xff\xfe"])
def test_a_manifest_that_is_none_is_damage_and_no_traceback(tmp_path, content):
    folder = make_checkpoint(tmp_path)
    (folder / NAME).write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match=r"manifest\.json is damaged"):
        read_manifest(folder)


def test_several_readers_share_the_files_and_together_find_all(tmp_path):
    """By name: model/.metadata, model/__0_0.distcp, state.json. Of three readers the second reads the second."""
    folder = make_checkpoint(tmp_path)
    (folder / "model/__0_0.distcp").write_bytes(bytes(200))
    found = [find_damage(folder, part=part, num_parts=3) for part in range(3)]
    assert [bool(text) for text in found] == [False, True, False]


def test_a_missing_file_is_found_by_every_reader(tmp_path):
    folder = make_checkpoint(tmp_path)
    (folder / "state.json").unlink()
    assert all(find_damage(folder, part=part, num_parts=3) for part in range(3))


def test_without_a_manifest_what_can_be_told_is_told(tmp_path):
    folder = make_checkpoint(tmp_path)
    (folder / NAME).unlink()
    assert find_damage(folder) == f"{folder / 'model/metadata.json'} is missing or empty"
    (folder / "model/metadata.json").write_text("{}")
    (folder / "model/common.pt").write_bytes(b"x")
    assert read_manifest(folder) is None and find_damage(folder) == ""


def test_digests_made_while_writing_are_those_of_the_file_and_are_not_made_again(tmp_path):
    path = tmp_path / "file"
    with path.open("wb") as raw:
        file = DigestingFile(raw)
        assert file.write(b"ab") == 2 and file.write(memoryview(b"cde")) == 3
        assert file.tell() == 5
    assert file.digest == digest_file(path) == FileDigest(5, xxhash.xxh3_128_hexdigest(b"abcde"))
    path.write_bytes(b"other")  # what the disk made of it is not what was meant
    known = complete_digests(tmp_path, {"file": file.digest})
    assert known == {"file": file.digest}
    assert "does not hold what was written" in explain_damage(path, known["file"])


def test_a_manifest_is_readable_json(tmp_path):
    content = json.loads((make_checkpoint(tmp_path) / NAME).read_text())
    assert content["format"] == 1 and content["parent"] == "step_00001"
    assert list(content["files"]) == ["model/.metadata", "model/__0_0.distcp", "state.json"]


def test_a_file_that_this_node_does_not_see_yet_is_in_the_manifest_as_it_was_written(tmp_path):
    """Another node's rank wrote it: a list of the folder may be older than that on a network file system."""
    (tmp_path / "state.json").write_text("{}")
    elsewhere = FileDigest(7, "0" * 32)
    found = complete_digests(tmp_path, {"model/__1_0.distcp": elsewhere})
    assert found == {
        "model/__1_0.distcp": elsewhere,
        "state.json": digest_file(tmp_path / "state.json"),
    }
