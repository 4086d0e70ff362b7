"""What a chat template writes around a message, and whether a text bears it already.

A prompt that was rendered before and is rendered again holds two templates, or two BOS tokens: nothing fails, the model
reads what it never saw in training, and rewards stay low.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "PROBE"
_LEAST_MARKER = 3  # characters; a shorter special token may well be text
_LEAST_WORDS = 8  # characters of a template without special tokens, before and after a message


@dataclass(frozen=True, slots=True)
class ChatFrame:
    """`before` and `after` a user's message, without BOS; `markers`: the special tokens among them."""

    before: str
    after: str
    markers: tuple[str, ...]

    def find_in(self, text: str) -> str | None:
        """What of the template stands in `text` already.

        >>> frame = ChatFrame("<|user|>", "<|assistant|>", ("<|user|>", "<|assistant|>"))
        >>> frame.find_in("<|user|>2+2?<|assistant|>"), frame.find_in("Is 2 < 3 | 4?")
        ('<|user|>', None)
        >>> words = ChatFrame("### Instruction:", "### Response:", ())
        >>> words.find_in("### Instruction: 2+2? ### Response:"), words.find_in("### Instruction: 2+2?")
        ('### Instruction:', None)
        """
        for marker in self.markers:
            if marker in text:
                return marker
        is_long = len(self.before) + len(self.after) >= _LEAST_WORDS
        bare = text.strip()
        if is_long and bare.startswith(self.before) and bare.endswith(self.after):
            return self.before or self.after
        return None


def find_frame(
    tokenizer: PreTrainedTokenizerBase, render: Callable[[list[dict[str, str]]], str]
) -> ChatFrame | None:
    """Of the chat template that `render` applies to messages. None where that does not show its message as it is."""
    before, found, after = render([{"role": "user", "content": _PROBE}]).partition(_PROBE)
    if not found:
        return None
    specials = [token for token in special_tokens(tokenizer).values() if token.strip()]
    if bos := str(tokenizer.bos_token or ""):
        before = before.strip().removeprefix(bos)
    return ChatFrame(
        before.strip(),
        after.strip(),
        tuple(t for t in specials if len(t) >= _LEAST_MARKER and t in f"{bos}{before}{after}"),
    )


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """By id, as they are written."""
    named = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    added = getattr(tokenizer, "added_tokens_decoder", {}).items()
    return dict(named) | {id_: str(t.content) for id_, t in added if t.special}
