"""Which model a folder holds, told without reading it whole: small files by their contents, weights by the names and
shapes of their tensors, their size and samples of their bytes. Two models of one architecture differ in nearly every
weight, so a few pages of each file tell them apart; a copy of a folder is the same model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xxhash

from megatron_ar3po.data.tokenizer import TOKENIZER_FILES

_TOKENIZER_FILES = (
    *TOKENIZER_FILES,
    *("merges.txt", "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json"),
)
_WRITERS_NOTES = ("transformers_version", "_name_or_path")  # who wrote the file, not what it holds
_SAMPLE_BYTES = 4096
_NUM_SAMPLES = 64  # of each file of weights


def identify_model(folder: Path) -> dict[str, str]:
    """Checksums of a Hugging Face folder, by what they are of. What is not there has none."""
    settings = _read_json(folder / "tokenizer_config.json")
    template = folder / "chat_template.jinja"
    template_text = template.read_text("utf-8") if template.is_file() else None
    parts = {
        "config.json": _digest_json(folder / "config.json"),
        "generation_config.json": _digest_json(folder / "generation_config.json"),
        "tokenizer": _digest_text(
            {name: digest for name in _TOKENIZER_FILES if (digest := _digest_json(folder / name))}
        ),
        "chat template": _digest_text(template_text or settings.get("chat_template")),
        "weights": digest_weights(folder.glob("*.safetensors")),
    }
    return {what: digest for what, digest in parts.items() if digest}


def digest_weights(files: Iterable[Path]) -> str:
    return _digest_text({path.name: _sample_file(path) for path in files})


def _sample_file(path: Path) -> str:
    """Its size and pages that lie evenly over it, the first among them: there a file of safetensors has its header."""
    size, total = path.stat().st_size, xxhash.xxh3_128()
    with path.open("rb") as file:
        for number in range(_NUM_SAMPLES):
            file.seek(number * max(size - _SAMPLE_BYTES, 0) // (_NUM_SAMPLES - 1))
            total.update(file.read(_SAMPLE_BYTES))
    return f"{size} {total.hexdigest()}"


def _digest_json(path: Path) -> str:
    """By what it says, where it is an object; by its bytes otherwise. "" where there is no such file."""
    if not path.is_file():
        return ""
    content = _read_json(path)
    if not content:
        return xxhash.xxh3_128_hexdigest(path.read_bytes())
    left_out = (*_WRITERS_NOTES, "chat_template")  # the template has a checksum of its own
    said = {name: value for name, value in content.items() if name not in left_out}
    return _digest_text(said)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):  # whoever needs it says what is wrong with it
        return {}
    return content if isinstance(content, dict) else {}


def _digest_text(content: object) -> str:
    if not content:
        return ""
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode("utf-8"))
