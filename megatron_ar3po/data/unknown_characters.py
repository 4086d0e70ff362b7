"""Characters that the tokenizer cannot write: it puts its unknown token for them, or nothing at all, and the policy is
asked something else than the file says."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MAX_SHOWN = 10


class UnknownCharacters:
    """Counts them over the prompts of a file. A text is decoded only where it holds a character that has not come back
    before, so that a large file costs hardly more than its alphabet."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._known = set[str]()
        self.lost = Counter[str]()  # by character
        self.num_unknown_tokens = 0
        self.prompts: list[str] = []  # where they stand

    def look_at(self, text: str, token_ids: Sequence[int], where: str) -> None:
        unknown_tokens = self._count_unknown(text, token_ids)
        new = set(text) - self._known
        if new:
            decoded = self._tokenizer.decode(
                list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            self._known |= {c for c in new if _comes_back(c, str(decoded))}
        lost = {c: text.count(c) for c in new - self._known}
        self.lost.update(lost)
        self.num_unknown_tokens += unknown_tokens
        if lost or unknown_tokens:
            self.prompts.append(where)

    def describe(self) -> str:
        """What a run is warned of; empty where nothing is lost."""
        if not self.prompts:
            return ""
        said = [f"{char!r} {count} times" for char, count in self.lost.most_common(_MAX_SHOWN)]
        more = f" and {len(self.lost) - _MAX_SHOWN} others" if len(self.lost) > _MAX_SHOWN else ""
        characters = f"the characters {', '.join(said)}{more}" if said else "some characters"
        return (
            f"{len(self.prompts)} prompts hold text that the tokenizer of model.path cannot write: {characters}; "
            f"{self.num_unknown_tokens} unknown tokens. The policy does not read what the file says. The first is "
            f"{self.prompts[0]}"
        )

    def _count_unknown(self, text: str, token_ids: Sequence[int]) -> int:
        """But for those that the text spells itself."""
        token, token_id = self._tokenizer.unk_token, self._tokenizer.unk_token_id
        if not isinstance(token_id, int):
            return 0
        return max(0, token_ids.count(token_id) - text.count(str(token)))


def _comes_back(char: str, decoded: str) -> bool:
    """As itself, or as what its compatibility form is written with (a tokenizer that normalises); white space may be
    spelled in another way."""
    if char in decoded or char.isspace():
        return True
    forms = (unicodedata.normalize(form, char) for form in ("NFC", "NFKC", "NFKD"))
    folded = decoded.casefold()
    return any(form and all(c.casefold() in folded for c in form) for form in forms)
