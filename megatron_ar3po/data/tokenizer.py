"""The policy's tokenizer, and which tokens end a response.

Read from the checkpoint folder alone; nothing is fetched. Prompts are turned into tokens here once,
so that the server and the actor see the same ids and text is left to verifiers.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_ar3po.model_shape import read_model_shape
from megatron_ar3po.platform.torchvision_schemas import ensure_torchvision_schemas

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of the checkpoint folder `model.path`, checked against the model's
    vocabulary."""
    folder = Path(path)
    vocab_size = read_model_shape(folder).vocab_size
    # Without these files transformers makes up an empty tokenizer for some architectures.
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(
            f"model.path={str(path)!r} holds no tokenizer (none of {', '.join(TOKENIZER_FILES)}); "
            "copy the tokenizer files of the same model into it."
        )
    ensure_torchvision_schemas()
    from transformers import AutoTokenizer  # only after the schemas

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"the tokenizer in model.path={str(path)!r} has {tokenizer.vocab_size} tokens, but "
            f"config.json has vocab_size={vocab_size}: they belong to different models; use the "
            "tokenizer the model was trained with."
        )
    return tokenizer


class LateTokenizer:
    """That of the checkpoint folder `model.path`, loaded where it is first asked for: it brings torch along."""

    def __init__(self, path: str | Path) -> None:
        self._path = path

    @functools.cached_property
    def loaded(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self._path)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        text = self.loaded.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        return str(text)


def stop_token_ids(
    path: str | Path, tokenizer: PreTrainedTokenizerBase, extra: Iterable[int] = ()
) -> tuple[int, ...]:
    """Tokens that end a response, ascending: those of the tokenizer, of generation_config.json
    (instruction-tuned checkpoints often name the end of a turn only there) and `extra`
    (rollout.extra_stop_token_ids)."""
    folder = Path(path)
    found: list[Any] = [tokenizer.eos_token_id, *extra]
    shape, generation = read_model_shape(folder), folder / "generation_config.json"
    settings = [json.loads(generation.read_text("utf-8"))] if generation.is_file() else []
    for value in (source.get("eos_token_id") for source in (*settings, shape.settings)):
        found.extend(value if isinstance(value, list) else [value])
    ids = sorted({int(token_id) for token_id in found if token_id is not None})
    if not ids:
        raise ValueError(
            f"model.path={str(path)!r} names no end-of-sequence token, so no response would ever "
            "end; set eos_token_id in generation_config.json or give rollout.extra_stop_token_ids."
        )
    if ids[0] < 0 or ids[-1] >= shape.vocab_size:
        raise ValueError(
            f"stop tokens {ids} do not all lie in the model's vocabulary 0..{shape.vocab_size - 1}; mend "
            f"rollout.extra_stop_token_ids or eos_token_id in model.path={str(path)!r}."
        )
    return tuple(ids)
