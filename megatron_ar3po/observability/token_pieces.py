"""Which characters of a response's text each of its tokens stands for, so that a reader can see it token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

_WINDOW = 4  # tokens before one that decide how it is written: a space, the rest of a character
_HALF = "\ufffd"  # what a decoder writes for a character whose bytes are not all there


class TokenPieces:
    """Knows what single tokens decode to: most of a run's are a few thousand."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._alone: dict[int, str] = {}

    def lengths(self, token_ids: Sequence[int], text: str) -> list[int]:
        """[L] characters of each token, which add up to the beginning of `text`; `token_ids` may be its first ones
        alone. A token in the middle of a character has none: they go to the token that ends it.

        >>> TokenPieces(lambda ids: "".join("ab"[i] * 2 for i in ids)).lengths([0, 1, 1], "aabbbb")
        [2, 2, 2]
        """
        pieces = [self._decode_alone(token_id) for token_id in token_ids]
        joined = "".join(pieces)
        if _HALF not in joined and text.startswith(joined):
            return [len(piece) for piece in pieces]
        return self._lengths_in_context(token_ids)

    def _decode_alone(self, token_id: int) -> str:
        if token_id not in self._alone:
            self._alone[token_id] = self._decode([token_id])
        return self._alone[token_id]

    def _lengths_in_context(self, token_ids: Sequence[int]) -> list[int]:
        """What each adds to the text of the few tokens before it, once that ends with a whole character."""
        lengths: list[int] = []
        shown = 0  # tokens that are written out
        for end in range(1, len(token_ids) + 1):
            start = max(0, shown - _WINDOW)
            before = self._decode(token_ids[start:shown]) if shown > start else ""
            after = self._decode(token_ids[start:end])
            is_whole = not after.endswith(_HALF) or end - shown >= _WINDOW
            lengths.append(max(0, len(after) - len(before)) if is_whole else 0)
            shown = end if is_whole else shown
        return lengths
