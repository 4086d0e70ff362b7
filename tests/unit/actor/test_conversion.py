"""Checkpoint conversion, both ways: bit-exact, resumable, and nothing half-written.

Not here: reading what other layouts saved (tests/parallel)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_ar3po.actor import conversion
from megatron_ar3po.actor.hf_import import expected_tensors
from megatron_ar3po.model_shape import read_policy_shape
from tools import convert_checkpoint

ROOT = Path(__file__).parents[3]
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def silent(phase: str, done: int, total: int) -> None: ...


def model_at(folder: Path, dtype: torch.dtype = torch.bfloat16, **changes: object) -> Path:
    """A random model in three files, with the odd bytes a cast would lose."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    (folder / "tokenizer.json").write_text("{}")
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(size, generator=generator).to(dtype)
        for name, size in expected_tensors(read_policy_shape(str(folder))).items()
    }
    names = sorted(tensors)
    for number in range(3):
        save_file({n: tensors[n] for n in names[number::3]}, folder / f"model-{number}.safetensors")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_at(tmp_path / "hf")


def tensors_in(folder: Path) -> dict[str, torch.Tensor]:
    return {n: x for f in folder.glob("*.safetensors") for n, x in load_file(f).items()}


def there_and_back(model: Path, tmp_path: Path) -> Path:
    conversion.to_megatron(model, tmp_path / "meg", part_bytes=60_000, report=silent)
    back = tmp_path / "back"
    conversion.to_hf(tmp_path / "meg", back, model, file_bytes=50_000, report=silent)
    return back


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"architectures": ["Qwen3ForCausalLM"], "head_dim": 32},
        {"architectures": ["LlamaForCausalLM"]},
    ],
    ids=["qwen2", "tied", "qwen3", "llama"],
)
def test_there_and_back_is_bit_exact(
    tmp_path: Path, dtype: torch.dtype, changes: dict[str, object]
) -> None:
    model = model_at(tmp_path / "hf", dtype, **changes)
    back = there_and_back(model, tmp_path)
    before, after = tensors_in(model), tensors_in(back)
    assert before.keys() == after.keys()
    assert all(x.dtype == after[n].dtype and torch.equal(x, after[n]) for n, x in before.items())
    assert json.loads((back / "config.json").read_text()) == CONFIG | changes
    assert (back / "tokenizer.json").is_file()
    assert len(list(back.glob("*.safetensors"))) > 1
    assert not list(tmp_path.glob("*.partial"))


def test_both_formats_have_one_checksum_and_one_bit_changes_it(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = conversion.to_megatron(model, tmp_path / "meg", part_bytes=60_000, report=silent)
    shape = read_policy_shape(str(model))
    of_hf = conversion.checksum(conversion.hf_digests(model, shape, silent))
    of_megatron = conversion.checksum(conversion.megatron_digests(tmp_path / "meg", shape, silent))
    assert there == of_hf == of_megatron
    file = next(model.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert conversion.checksum(conversion.hf_digests(model, shape, silent)) != there


def test_a_flipped_byte_on_the_way_to_the_disk_is_found_before_the_folder_appears(
    model: Path, tmp_path: Path
) -> None:
    def flip(phase: str, done: int, total: int) -> None:
        if phase == "writing" and done == total:
            file = tmp_path / "meg.partial" / "__0_0.distcp"
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)

    with pytest.raises(ValueError, match=r"does not hold what was read: 1 tensors differ"):
        conversion.to_megatron(model, tmp_path / "meg", part_bytes=60_000, report=flip)
    assert not (tmp_path / "meg").exists()


@pytest.mark.parametrize("verb", ["to-megatron", "to-hf"])
def test_a_killed_conversion_is_taken_up_where_it_was(
    model: Path, tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL as soon as some files are there; the second run keeps them and ends with the right checksum."""
    source, like = model, []
    expected = conversion.to_megatron(model, tmp_path / "meg", part_bytes=20_000, report=silent)
    if verb == "to-hf":
        source, like = tmp_path / "meg", ["--like", str(model)]
    out = tmp_path / "out"
    words = [verb, str(source), str(out), "--file-bytes", "2000", *like]
    partial = tmp_path / "out.partial"
    pattern = "*.done" if verb == "to-megatron" else "*.safetensors"
    first = subprocess.Popen(
        [sys.executable, convert_checkpoint.__file__, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240  # importing Megatron-Core takes a while on a busy machine
    while len(list(partial.glob(pattern))) < 3 and time.monotonic() < deadline:
        assert first.poll() is None, "it ended before it could be killed"
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not out.exists()
    kept = {p.name: p.stat().st_mtime_ns for p in sorted(partial.glob(pattern))[:3]}
    assert len(kept) == 3
    written = {p.name: p.stat().st_mtime_ns for p in partial.iterdir()}
    capsys.readouterr()
    assert convert_checkpoint.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checksum"] == expected
    data = ".distcp" if verb == "to-megatron" else ".safetensors"
    same = [
        n for n, at in written.items() if n.endswith(data) and (out / n).stat().st_mtime_ns == at
    ]
    assert len(same) >= 3 and not partial.exists()


def test_what_an_other_source_left_behind_is_not_taken_up(model: Path, tmp_path: Path) -> None:
    stale = tmp_path / "meg.partial"
    stale.mkdir()
    (stale / "made_from.json").write_text("something else")
    (stale / "__0_0.distcp").write_text("old")
    conversion.to_megatron(model, tmp_path / "meg", part_bytes=1 << 30, report=silent)
    assert (tmp_path / "meg" / "__0_0.distcp").stat().st_size > 100_000


def change(model: Path, name: str, make: object) -> None:
    for file in model.glob("*.safetensors"):
        tensors = load_file(file)
        if name in tensors:
            changed = make(tensors.pop(name))  # type: ignore[operator]
            save_file(tensors | ({} if changed is None else {name: changed}), file)


NORM = "model.layers.1.input_layernorm.weight"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda x: None, rf"missing: {NORM}"),
        (lambda x: x[:-1].clone(), rf"wrong shape: {NORM} is \[63\], config.json says \[64\]"),
        (lambda x: x / 0 * 0, rf"tensor {NORM} .* 64 values that are NaN"),
        (lambda x: x.float(), r"mixes dtypes: .*float32 \(.*Re-save it"),
    ],
    ids=["missing", "shape", "nan", "dtype"],
)
def test_a_source_that_is_not_whole_is_named_and_nothing_appears(
    model: Path, tmp_path: Path, make: object, said: str
) -> None:
    change(model, NORM, make)
    with pytest.raises(ValueError, match=said):
        conversion.to_megatron(model, tmp_path / "meg", part_bytes=60_000, report=silent)
    assert not (tmp_path / "meg").exists()


def test_a_file_that_was_cut_short_is_named(model: Path, tmp_path: Path) -> None:
    file = sorted(model.glob("*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model-1\.safetensors is no whole safetensors file"):
        conversion.to_megatron(model, tmp_path / "meg", part_bytes=60_000, report=silent)


def test_a_megatron_checkpoint_of_another_model_is_refused_by_name(
    model: Path, tmp_path: Path
) -> None:
    conversion.to_megatron(model, tmp_path / "meg", part_bytes=60_000, report=silent)
    other = model_at(tmp_path / "other", num_hidden_layers=2)
    with pytest.raises(ValueError, match=r"is \[3, 64\], config.json says \[2, 64\]"):
        conversion.to_hf(tmp_path / "meg", tmp_path / "x", other, file_bytes=1 << 30, report=silent)
    with pytest.raises(ValueError, match="is no Megatron distributed checkpoint"):
        conversion.to_hf(model, tmp_path / "x", model, file_bytes=1 << 30, report=silent)
    assert not (tmp_path / "x").exists()


def test_a_folder_that_is_there_is_never_written_over(model: Path, tmp_path: Path) -> None:
    (tmp_path / "meg").mkdir()
    with pytest.raises(ValueError, match="is there already"):
        conversion.to_megatron(model, tmp_path / "meg", part_bytes=60_000, report=silent)
