"""Prompts as the policy reads them, to be looked at: decoded from their tokens, special tokens visible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from megatron_ar3po.data.chat_frame import special_tokens
from megatron_ar3po.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MAX_CHARS = 2000  # of one prompt


def preview_prompts(
    prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase, *, num: int = 3
) -> list[str]:
    """The first `num` prompts, each as one text of several lines:

    prompt 1 of 512: 5 tokens (special: 1 <s>), answer '4', source 'sums'
        | <s>2+2=
    """
    specials = special_tokens(tokenizer)
    return [
        _preview(prompt, f"prompt {number} of {len(prompts)}", tokenizer, specials)
        for number, prompt in enumerate(prompts[: max(num, 0)], start=1)
    ]


def _preview(
    prompt: Prompt, name: str, tokenizer: PreTrainedTokenizerBase, specials: dict[int, str]
) -> str:
    found = Counter(specials[token] for token in prompt.token_ids if token in specials)
    held = ", ".join(f"{count} {token}" for token, count in found.items()) or "none"
    text = str(
        tokenizer.decode(
            list(prompt.token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
    )
    source = f", source {prompt.source!r}" if prompt.source else ""
    title = (
        f"{name}: {len(prompt.token_ids)} tokens (special: {held}), answer "
        f"{prompt.ground_truth[:80]!r}{source}"
    )
    return "\n".join([title, *(f"    | {line}" for line in _shorten(text).split("\n"))])


def _shorten(text: str) -> str:
    """The middle of a long text is left out: a prompt goes wrong at its ends."""
    if len(text) <= _MAX_CHARS:
        return text
    half = _MAX_CHARS // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters ...]\n{text[-half:]}"
