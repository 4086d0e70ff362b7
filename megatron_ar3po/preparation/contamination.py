"""Which problems of a training file stand in a benchmark, wholly or nearly: plain functions of their texts.

Three ways, the surest first:

- *exact*: the same text but for case, white space, dollar signs, braces and LaTeX's spacing;
- *one word*: short texts (below 27 words) that differ in one word, which one of them may lack;
- *13-gram*: 13 words in a row stand in both. Of two texts of 27 words or more that differ in one word, one side of it
  has 13; Brown et al. 2020 (arXiv:2005.14165, appendix C) look for contamination in this way.

A near pair may be two problems of one template, so it is for a reader to judge; an exact one is not.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

GRAM_WORDS = 13
_SHORT_WORDS = 2 * GRAM_WORDS + 1
_LAYOUT = re.compile(  # what LaTeX writes for the eye alone
    r"\\(?:left|right|displaystyle|textstyle|quad|qquad|bigl?|bigr?|Bigl?|Bigr?)(?![a-zA-Z])"
    r"|\\[,;:! \\]|[${}~]"
)
_WORD = re.compile(r"[^\W_]+")
Kind = Literal["exact", "one word", "13-gram"]


class Overlap(NamedTuple):
    benchmark: int  # index of its row
    kind: Kind
    shared: int  # 13-grams of both; 0 for the other kinds


def tidy(text: str) -> str:
    r"""
    >>> tidy("Find $\\left( x \\right)$,\nthe SUM.")
    'find(x),thesum.'
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = plain.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return "".join(_LAYOUT.sub(" ", plain).split())


def words_of(text: str) -> list[str]:
    r"""
    >>> words_of("Let $a_1=\\frac{1}{2}$, b = 3.5.")
    ['let', 'a', '1', 'frac', '1', '2', 'b', '3', '5']
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = plain.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return _WORD.findall(_LAYOUT.sub(" ", plain))


class BenchmarkIndex:
    """The texts of benchmarks, to be asked about one training text after the other."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._exact: dict[str, list[int]] = defaultdict(list)
        self._without_one: dict[str, list[int]] = defaultdict(list)
        self._grams: dict[str, list[int]] = defaultdict(list)
        for number, text in enumerate(texts):
            self._exact[tidy(text)].append(number)
            words = words_of(text)
            for key in dict.fromkeys(_without_one_word(words)):
                self._without_one[key].append(number)
            for gram in dict.fromkeys(_grams(words)):
                self._grams[gram].append(number)

    def find(self, text: str) -> list[Overlap]:
        """Each benchmark row that it meets, once, by the surest way; in the order of the benchmarks."""
        words = words_of(text)
        kinds: dict[int, Kind] = dict.fromkeys(self._exact.get(tidy(text), ()), "exact")
        for key in dict.fromkeys(_without_one_word(words)):
            for number in self._without_one.get(key, ()):
                kinds.setdefault(number, "one word")
        shared: Counter[int] = Counter()
        for gram in dict.fromkeys(_grams(words)):
            shared.update(self._grams.get(gram, ()))
        for number in shared:
            kinds.setdefault(number, "13-gram")
        return [Overlap(number, kinds[number], shared[number]) for number in sorted(kinds)]


def _grams(words: Sequence[str]) -> Iterator[str]:
    for start in range(len(words) - GRAM_WORDS + 1):
        yield " ".join(words[start : start + GRAM_WORDS])


def _without_one_word(words: Sequence[str]) -> Iterator[str]:
    """Two short texts that differ in one word have one of these in common: with a word changed, each without it; with a
    word added, that text without it, and the other whole."""
    if not 3 <= len(words) < _SHORT_WORDS:
        return
    yield " ".join(words)
    for left_out in range(len(words)):
        yield " ".join([*words[:left_out], *words[left_out + 1 :]])
