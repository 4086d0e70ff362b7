"""By what the weights of a subject are known: answers are reused by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ar3po.config.schema import Config
from megatron_ar3po.evaluation.subjects import Subject, identify_weights
from megatron_ar3po.file_digests import FileDigest
from megatron_ar3po.run.manifest import Manifest, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"rope_theta": 1.0}')
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def known_as(folder: Path, dtype: str = "float32") -> str:
    return identify_weights(Subject(config=Config(), hf_folder=folder), dtype)


def test_a_copy_of_a_folder_holds_the_same_weights(folder, tmp_path):
    before = known_as(folder)
    copy = folder.rename(tmp_path / "elsewhere")
    assert known_as(copy) == before
    assert known_as(copy, "bfloat16") != before


@pytest.mark.parametrize(
    ("name", "content"),
    [("model.safetensors", "weights of another step"), ("config.json", '{"rope_theta": 2.0}')],
)
def test_other_weights_or_settings_are_another_policy(folder, name, content):
    before = known_as(folder)
    (folder / name).write_text(content)
    assert known_as(folder) != before


def test_a_checkpoint_is_known_by_the_checksums_of_its_files(folder, tmp_path):
    checkpoint = tmp_path / "step_00010"
    (checkpoint / "model").mkdir(parents=True)
    subject = Subject(config=Config(), hf_folder=folder, checkpoint=checkpoint / "model")

    def known_with(**files: str) -> str:
        digests = {name.replace("__", "/"): FileDigest(1, xxh3) for name, xxh3 in files.items()}
        write_manifest(checkpoint, Manifest(parent="", files=digests))
        return identify_weights(subject, "float32")

    first = known_with(model__a="0a", state="01")
    assert known_with(model__a="0a", state="02") == first  # of the run, not of its policy
    assert known_with(model__a="0b", state="01") != first


def test_a_server_is_known_by_the_name_it_is_given_and_by_nothing_else(folder):
    server = Subject(config=Config(), hf_folder=folder, url="http://127.0.0.1:1")
    assert identify_weights(server, "float32") == ""
    named = identify_weights(server, "float32", "mine, step 10")
    assert named == identify_weights(replace(server, url="http://b:2"), "float32", "mine, step 10")
    assert named != identify_weights(server, "float32", "mine, step 20")


def test_what_else_sglang_is_told_is_another_policy(folder):
    """A quantized server gives other answers from the same files."""
    plain = Subject(config=Config(), hf_folder=folder)
    told = replace(Config(), servers=replace(Config().servers, sglang={"quantization": "fp8"}))
    assert identify_weights(replace(plain, config=told), "float32") != known_as(folder)
