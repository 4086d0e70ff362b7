r"""The unit behind a number: found, cut off, and spelled in one way.

A unit may be missing on one side; two different units are never equal (nothing is converted: 100 cm is not accepted
for 1 m, because a question that asks for metres asks for metres).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from megatron_ar3po.rewards.math.words import words

_SYNONYMS = {
    "meter": "m metre meter metres", "centimeter": "cm centimetre", "millimeter": "mm millimetre",
    "kilometer": "km kilometre", "decimeter": "dm decimetre", "micrometer": "um micron", "nanometer": "nm nanometre",
    "inch": "in inches inch ins", "foot": "ft feet foot", "yard": "yd yds", "mile": "mi",
    "gram": "g gm gms gramme", "kilogram": "kg kgs kilo kilos kilogramme", "milligram": "mg", "pound": "lb lbs",
    "ounce": "oz", "ton": "t tonne", "liter": "l litre", "milliliter": "ml millilitre",
    "gallon": "gal", "quart": "qt", "second": "s sec secs", "minute": "min mins", "hour": "h hr hrs", "day": "d",
    "week": "wk wks", "month": "mo", "year": "yr yrs", "millisecond": "ms",
    "dollar": "usd bucks", "cent": "cents", "euro": "eur", "yuan": "rmb cny", "rupee": "rs inr", "yen": "jpy",
    "degree": "deg degs", "radian": "rad rads", "percent": "pct percentage percents", "mph": "", "kph": "kmh kmph",
    "newton": "n", "joule": "j", "watt": "w", "volt": "v", "ampere": "a amp amps", "kelvin": "k", "hertz": "hz",
    "pascal": "pa", "kilojoule": "kj", "kilowatt": "kw", "kilopascal": "kpa", "mole": "mol mols", "celsius": "c",
    "fahrenheit": "f", "unit": "", "square_unit": "", "am": "", "pm": "", "th": "st nd rd", "ohm": "",
    "coulomb": "", "electronvolt": "ev", "kiloelectronvolt": "kev", "megaelectronvolt": "mev", "erg": "", "dyne": "dyn",
    "parsec": "pc", "kiloparsec": "kpc", "megaparsec": "mpc", "angstrom": "", "tesla": "", "gauss": "", "farad": "",
    "henry": "", "bar": "", "atmosphere": "atm", "calorie": "cal", "kilocalorie": "kcal", "bit": "", "byte": "",
    "megahertz": "mhz", "kilohertz": "khz", "gigahertz": "ghz", "megajoule": "mj", "acre": "", "hectare": "ha",
}  # fmt: skip
_CANONICAL = {word: unit for unit, words in _SYNONYMS.items() for word in [unit, *words.split()]}
_KNOWN = (
    frozenset(_CANONICAL)
    | {"square", "sq", "cubic", "cu", "per"}
    | {f"{word}s" for word in _CANONICAL if len(word) > 2}
)
_QUOTIENTS = {"mph": "mile hour^-1", "kph": "kilometer hour^-1"}
# One letter is a unit only inside \text{...} or in a quotient (12 m/s): in "3 n" and "5 m" it is a variable.
_FUNCTION = re.compile(r"(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
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
)
_MODULUS = re.compile(
    r"\s*(?:\\pmod ?(?:\{ ?(\d+) ?\}|(\d+))|\( ?(?:\\text ?\{ ?)?mod ?\}? ?(\d+) ?\)"
    r"|(?:\\mod|\\text ?\{ ?mod ?\}) ?\{? ?(\d+) ?\}?)$"
)
_INCHES_AND_FEET = re.compile(r"(?<=\d) ?('{1,2}|\")$")
_PIECE = re.compile(
    rf"\s*(?:(?P<text>\\text\s*\{{{_INSIDE}\}}{_POWER})|(?P<word>(?<![A-Za-z\\])[A-Za-z]+(?![A-Za-z])\.?{_POWER})|(?P<sign>[/*°]))"
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
    r"[-+]?\s*[\d.,]+(?:[eE][-+]?\d+| ?\* ?10 ?\^ ?(?:\{ ?-?\d+ ?\}|\d))?(?:\s+\d+/\d+|/\d+)?\s*$"
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
    text = _QUOTIENT.sub(r"\1/\2", text)
    tail = _TAIL.search(text, max(0, len(text) - _MAX_UNIT_CHARS))
    pieces = list(_PIECE.finditer(text, tail.start())) if tail else []
    for number, piece in enumerate(pieces[:_MAX_PIECES]):
        core = text[: piece.start()].rstrip()
        if core and not core.endswith(_UNFINISHED) and _is_unit(pieces[number:], core, letters):
            return core, _spell_unit(text[piece.start() :])
    return text, ""


def same_unit(left: str, right: str) -> bool:
    return left == right or not left or not right


def _is_unit(pieces: Sequence[re.Match[str]], core: str, letters: bool) -> bool:
    """Whether these pieces, all that follows the core, name a unit."""
    if _FUNCTION.search(core) and pieces[0]["sign"] == "°":
        return False  # \sin 30° is no angle
    if all(piece["sign"] in ("/", "*") for piece in pieces) or pieces[0]["sign"] in ("/", "*"):
        return False
    after_number = bool(_PLAIN_NUMBER.fullmatch(core))
    has_slash = any(piece["sign"] == "/" for piece in pieces)
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
    if word.lower() in _KNOWN:
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
    parts: list[str] = []
    prefix, sign = 0, 1  # of "square", and of a slash
    powers: list[int] = []
    for word in re.findall(r"[A-Za-z]+|\^\s*-?\d|[/*]|\d+|[^\sA-Za-z\d]", text):
        lowered = word.lower()
        if lowered in _PREFIX_POWERS:
            prefix = _PREFIX_POWERS[lowered]
        elif lowered in _SUFFIX_POWERS and parts:
            powers[-1] *= _SUFFIX_POWERS[lowered]
        elif word.startswith("^") and parts:
            powers[-1] *= int(word[1:])
        elif lowered in ("per", "/"):
            sign = -1
        elif word != "*" and lowered not in ("of", "the", "an") and (lowered != "a" or not parts):
            parts.append(_canonical_unit_word(lowered))
            powers.append(sign * (prefix or 1))
            prefix, sign = 0, 1
    named = [
        f"{part}^{power}" if power != 1 else part for part, power in zip(parts, powers, strict=True)
    ]
    unit = _degree_scale(" ".join(named))
    return _QUOTIENTS.get(unit, unit)


_PREFIX_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_SUFFIX_POWERS = {"squared": 2, "cubed": 3}


def _degree_scale(unit: str) -> str:
    return {
        "degree celsius": "celsius",
        "degree fahrenheit": "fahrenheit",
        "degree kelvin": "kelvin",
    }.get(unit, unit)


def _canonical_unit_word(word: str) -> str:
    if word in _CANONICAL:
        return _CANONICAL[word]
    if len(word) > 3 and word.endswith("ies"):
        return word[:-3] + "y"
    singular = (
        word[:-1] if len(word) > 2 and word.endswith("s") and not word.endswith("ss") else word
    )
    return _CANONICAL.get(singular, singular)
