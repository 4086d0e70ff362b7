"""Tokens and characters: the lengths add up to the text, whatever the tokens are."""

import doctest

from megatron_ar3po.observability import token_pieces
from megatron_ar3po.observability.token_pieces import TokenPieces


def test_the_docstrings_examples_hold():
    assert doctest.testmod(token_pieces).failed == 0


def test_a_character_that_two_tokens_make_belongs_to_the_one_that_ends_it():
    """Bytes as tokens: `a`, the two bytes of `é`, `b`."""
    text = "aéb"
    token_ids = list(text.encode())
    pieces = TokenPieces(lambda ids: bytes(ids).decode(errors="replace"))
    assert pieces.lengths(token_ids, text) == [1, 0, 1, 1]


def test_a_space_that_is_written_only_between_two_words_counts_with_the_second():
    """As SentencePiece decodes: the first word of what is decoded loses its space."""
    words = {1: " one", 2: " two"}

    def decode(ids):
        return "".join(words[i] for i in ids).lstrip()

    assert TokenPieces(decode).lengths([1, 2, 2], "one two two") == [3, 4, 4]


def test_bytes_that_are_no_character_do_not_hold_the_rest_up():
    """Six bytes, none of which begins a character, then `b`: each stands as one sign, and all add up to the text."""
    token_ids = [0x80] * 6 + [ord("b")]
    text = bytes(token_ids).decode(errors="replace")
    lengths = TokenPieces(lambda ids: bytes(ids).decode(errors="replace")).lengths(token_ids, text)
    assert sum(lengths) == len(text) == 7
    assert lengths[-1] >= 1


def test_a_token_is_decoded_by_itself_once():
    asked = []

    def decode(ids):
        asked.append(list(ids))
        return "x" * len(ids)

    pieces = TokenPieces(decode)
    assert pieces.lengths([5, 5, 6], "xxx") == [1, 1, 1]
    assert pieces.lengths([6, 5], "xx") == [1, 1]
    assert asked == [[5], [6]]
