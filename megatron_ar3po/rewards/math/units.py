r"""The unit behind a number: found, cut off, and spelled in one way.

A unit may be missing on one side; two different units are never equal (nothing is converted: 100 cm is not accepted
for 1 m, because a question that asks for metres asks for metres).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from megatron_ar3po.rewards.math.unit_names import KNOWN, SHORT, SURE_SHORT, unit_name
from megatron_ar3po.rewards.math.words import words

_QUOTIENTS = {"mph": "hour^-1 mile", "kph": "hour^-1 kilometer"}
# One letter is a unit only inside \text{...} or in a quotient (12 m/s): in "3 n" and "5 m" it is a variable.
_FUNCTION = re.compile(r"(?:sin|cos|tan|cot|sec|csc|cis)(?![A-Za-z])")
_CLOCK = re.compile(r"(?:(?<=\d)\s*([AaPp])\.?\s?[Mm]\.?|(?<=:\d\d)\s*([AaPp])\.?)$")
_MAX_PIECES = 12
_MAX_UNIT_CHARS = 120
_UNFINISHED = ("\\", "^", "_", "/", "*", "+", "-", "=", "(", "[", "{", "<", ">", ",")
_DEGREE_SCALES = ("C", "F", "K")
_SINGLE_LETTERS = frozenset("mgshlnjwvakdct")

_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d))?"
_INSIDE = r"[^{}]*(?:\{[^{}]*\}[^{}]*)*"
_QUOTIENT = re.compile(
    rf"\\frac ?\{{ ?(\\text ?\{{[^{{}}]*\}}{_POWER}) ?\}} ?\{{ ?(\\text ?\{{[^{{}}]*\}}{_POWER}) ?\}}$"
    rf"|(?<=\d) ?\\frac ?\{{ ?([A-Za-z]{{1,4}}{_POWER}) ?\}} ?\{{ ?([A-Za-z]{{1,4}}{_POWER}) ?\}}$"
)
_MICRO = re.compile(r"(?<=\d) ?\\mu ?\\text ?\{ ?([A-Za-z]+) ?\}$")
_GREEK_UNIT = re.compile(
    r"(?<=\d) ?(?:\\mu ?([A-Za-z]{1,3})|(?:\\text ?\{ ?)?([kM])? ?\}? ?\\Omega ?)$"
)
_HYPHEN = re.compile(r"(?<=\d )((?:\\text ?\{ ?)?([A-Za-z]{2,}))-([A-Za-z]{2,})(?= ?\}?$)")
_MODULUS = re.compile(
    r"\s*(?:\\pmod ?(?:\{ ?(\d+) ?\}|(\d+))|\( ?(?:\\text ?\{ ?)?mod ?\}? ?(\d+) ?\)"
    r"|(?:\\mod|\\text ?\{ ?mod ?\}) ?\{? ?(\d+) ?\}?)$"
)
_INCHES_AND_FEET = re.compile(r"(?<=\d) ?('{1,2}|\")$")
_PIECE = re.compile(
    rf"\s*(?:(?P<text>\\text\s*\{{{_INSIDE}\}}{_POWER})"
    rf"|(?P<word>(?<![A-Za-z\\])[A-Za-z]+(?![A-Za-z])\.?{_POWER})|(?P<sign>/ ?\(|[/*°)]))"
)
_TAIL = re.compile(
    rf"(?:{_PIECE.pattern.replace('?P<text>', '?:').replace('?P<word>', '?:').replace('?P<sign>', '?:')})+$"
)
_NOT_UNITS = frozenset(
    words(
        "and or if where when mod for sin cos tan cot sec csc log ln exp sqrt pi arcsin arccos arctan abs "
        "floor ceil "
    )
)
_PLAIN_NUMBER = re.compile(
    r"[-+]?\s*(?:10 ?\^ ?(?:\{ ?-?\d+ ?\}|\d+)"
    r"|[\d.,]+(?:[eE][-+]?\d+| ?\* ?10 ?\^ ?(?:\{ ?-?\d+ ?\}|\d))?(?:\s+\d+/\d+|/\d+)?)\s*$"
)
_PERCENT = re.compile(
    r"\s*(?:%|\\text\s*\{\s*%?\s*(?:percent|per cent|pct|percentage)?\s*\}|percentage|percent|per cent|pct)\.?$",
    re.I,
)
_CURRENCY = re.compile(
    r"^([-+]?)\s*(?:\\\$|\\text\s*\{\s*(\\?\$|USD|US\\?\$|euro|pound|yen)\s*\}|(USD|EUR)(?=\s*\d))\s*"
)


def split_percent(text: str) -> tuple[str, bool]:
    """The text without its percent sign, and whether it had one."""
    match = _PERCENT.search(text)
    if match is None or match.start() == 0 or r"\text{}" in match[0].replace(" ", ""):
        return text, False
    return text[: match.start()], True


def split_unit(text: str, *, letters: bool = False) -> tuple[str, str]:
    r"""The answer without its unit, and the unit in one spelling ('' when there is none). `letters`: a
    single letter may be one as well, as in "5 m"; for when the other side says that it is.

    >>> split_unit(r"15 \text{ cm}^2"), split_unit("125 miles"), split_unit("4t"), split_unit(r"36°")
    (('15', 'centimeter^2'), ('125', 'mile'), ('4t', ''), ('36', 'degree'))
    """
    currency = _CURRENCY.match(text)
    if currency:
        name = (currency[2] or currency[3] or "$").lower().replace("us", "").replace("\\", "")
        rest, unit = _split_behind(text[currency.end() :], letters=False)
        known = {"$": "dollar", "d": "dollar", "": "dollar", "eur": "euro"}.get(name, name)
        return currency[1] + rest, known if unit in ("", known) else f"{known} {unit}"
    return _split_behind(text, letters=letters)


def _split_behind(text: str, *, letters: bool) -> tuple[str, str]:
    modulus = _MODULUS.search(text)
    if modulus and modulus.start():
        return text[: modulus.start()], f"mod {next(filter(None, modulus.groups()))}"
    text = _CLOCK.sub(lambda m: f" {(m[1] or m[2]).lower()}m", text)
    text = _INCHES_AND_FEET.sub(lambda m: r"\text{ft}" if m[1] == "'" else r"\text{in}", text)
    text = _MICRO.sub(lambda m: rf"\text{{u{m[1]}}}", _HYPHEN.sub(_without_hyphen, text))
    if letters:
        text = _GREEK_UNIT.sub(lambda m: " u" + m[1] if m[1] else f" {m[2] or ''}ohm", text)
    text = _QUOTIENT.sub(_unit_quotient, text)
    tail = _TAIL.search(text, max(0, len(text) - _MAX_UNIT_CHARS))
    pieces = list(_PIECE.finditer(text, tail.start())) if tail else []
    for number, piece in enumerate(pieces[:_MAX_PIECES]):
        core = text[: piece.start()].rstrip()
        if core and not core.endswith(_UNFINISHED) and _is_unit(pieces[number:], core, letters):
            return core, _spell_unit(text[piece.start() :])
    return text, ""


def _without_hyphen(match: re.Match[str]) -> str:
    """foot-pounds, kilowatt-hours"""
    are_units = all(word in SURE_SHORT or word.lower() in KNOWN for word in (match[2], match[3]))
    return f"{match[1]} {match[3]}" if are_units else match[0]


def _unit_quotient(match: re.Match[str]) -> str:
    r"""\frac{m}{s} is m/s: in \text{...}, or behind a number where both are units."""
    if match[1]:
        return f"{match[1]}/{match[2]}"
    words = (re.split(r"[ ^]", match[group])[0] for group in (3, 4))
    if all(word in _SINGLE_LETTERS or word in KNOWN or word in SHORT for word in words):
        return f" {match[3]}/{match[4]}"
    return match[0]


def same_unit(left: str, right: str) -> bool:
    return left == right or not left or not right


def _is_unit(pieces: Sequence[re.Match[str]], core: str, letters: bool) -> bool:
    """Whether these pieces, all that follows the core, name a unit."""
    if _FUNCTION.search(core) and pieces[0]["sign"] == "°":
        return False  # \sin 30° is no angle
    signs = [piece["sign"] for piece in pieces if piece["sign"]]
    if len(signs) == len(pieces) != signs.count("°") or pieces[0]["sign"] not in (None, "°"):
        return False
    if sum(sign[-1] == "(" for sign in signs) != signs.count(")"):
        return False
    after_number = bool(_PLAIN_NUMBER.fullmatch(core))
    has_slash = any(sign[0] == "/" for sign in signs)
    after_sign = after_degree = False
    named = False  # "3 red apples": behind a plain number, a word is followed by any others
    for piece in pieces:
        if piece["text"]:
            words = re.findall(r"[A-Za-z]+", piece["text"][len("\\text") :])
            if not words or any(word.lower() in _NOT_UNITS for word in words):
                return False
            named = True
        elif piece["word"]:
            word = re.match(r"\s*([A-Za-z]+)", piece["word"])
            assert word is not None
            spaced = piece[0][0] == " " or after_sign
            if not _is_unit_word(
                word[1],
                spaced=spaced,
                after_number=after_number,
                named=named,
                letters=letters or has_slash,
            ) and not (after_degree and word[1] in _DEGREE_SCALES):
                return False
            named = True
        after_sign, after_degree = bool(piece["sign"]), piece["sign"] == "°"
    return True


def _is_unit_word(
    word: str, *, spaced: bool, after_number: bool, named: bool, letters: bool
) -> bool:
    if word.lower() in _NOT_UNITS:
        return False
    if len(word) == 1:
        return after_number and spaced and word.lower() in _SINGLE_LETTERS and (letters or named)
    if word.lower() in KNOWN or word in SURE_SHORT or (letters and word in SHORT):
        return True
    return (
        after_number
        and spaced
        and (named or (len(word) >= 4 and bool(re.search("[aeiouy]", word))))
    )


def _spell_unit(tail: str) -> str:
    """The canonical name of a unit text: "m / s^2" and "m s^{-2}" are both "meter second^-2"."""
    text = re.sub(rf"\\text\s*\{{({_INSIDE})\}}", r" \1 ", tail).replace("°", " degree ")
    text = text.replace("{", "").replace("}", "").replace(".", "").replace("\\frac", " ")
    powers: dict[str, int] = {}
    last: list[str] = []  # the parts of the word before: a newton meter has two
    step = 1
    prefix, sign, inside = 0, 1, 1  # of "square", of a slash, of brackets behind a slash
    for word in re.findall(r"[A-Za-z]+|\^\s*-?\d|[/*()]|\d+|[^\sA-Za-z\d]", text):
        lowered = word.lower()
        if lowered in _PREFIX_POWERS:
            prefix = _PREFIX_POWERS[lowered]
        elif (lowered in _SUFFIX_POWERS or word.startswith("^")) and last:
            power = _SUFFIX_POWERS[lowered] if lowered in _SUFFIX_POWERS else int(word[1:])
            powers[last[-1]] += step * (power - 1)
        elif word in ("(", ")"):
            inside, sign = (sign if word == "(" else 1), 1
        elif lowered in ("per", "/"):
            sign = -1
        elif (
            word not in "*-" and lowered not in ("of", "the", "an") and (lowered != "a" or not last)
        ):
            step = sign * inside * (prefix or 1)
            last = unit_name(word).split()
            for part in last:
                powers[part] = powers.get(part, 0) + step
            prefix, sign = 0, 1
    named = [part if power == 1 else f"{part}^{power}" for part, power in sorted(powers.items())]
    unit = _degree_scale(" ".join(named))
    return _QUOTIENTS.get(unit, unit)


_PREFIX_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_SUFFIX_POWERS = {"squared": 2, "cubed": 3}


def _degree_scale(unit: str) -> str:
    return {
        "celsius degree": "celsius",
        "degree fahrenheit": "fahrenheit",
        "degree kelvin": "kelvin",
    }.get(unit, unit)
