"""The names of units: every spelling of one, short or long, leads to one name.

Short names with a prefix are told apart by their capitals, where they are written as the SI writes them: mW is a
milliwatt, MW a megawatt. Any other spelling is read without regard to capitals (KM, Kg).
"""

from __future__ import annotations

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
    "kiloohm": "kilohm", "megaohm": "megohm",
}  # fmt: skip
_CANONICAL = {word: unit for unit, words in _SYNONYMS.items() for word in [unit, *words.split()]}
KNOWN = (
    frozenset(_CANONICAL)
    | {"square", "sq", "cubic", "cu", "per"}
    | {f"{word}s" for word in _CANONICAL if len(word) > 2}
)
_PREFIXES = {
    "p": "pico", "n": "nano", "u": "micro", "m": "milli", "c": "centi", "d": "deci", "h": "hecto", "k": "kilo",
    "M": "mega", "G": "giga", "T": "tera",
}  # fmt: skip
_SI = {
    "m": "meter", "g": "gram", "s": "second", "A": "ampere", "K": "kelvin", "mol": "mole", "Hz": "hertz", "N": "newton",
    "Pa": "pascal", "J": "joule", "W": "watt", "C": "coulomb", "V": "volt", "F": "farad", "T": "tesla", "H": "henry",
    "L": "liter", "l": "liter", "eV": "electronvolt", "Wh": "watt hour", "cal": "calorie", "bar": "bar", "B": "byte",
    "pc": "parsec", "Nm": "newton meter", "Ah": "ampere hour", "ohm": "ohm",
}  # fmt: skip
_SHORT = {
    **{p + short: prefix + unit for p, prefix in _PREFIXES.items() for short, unit in _SI.items()},
    **{short: unit for short, unit in _SI.items() if len(short) > 1 or short in "TH"},
}
for _other in ("pm", "dB"):  # past noon, decibels
    del _SHORT[_other]
# Known by themselves. Of the others "2 mV" may be a product of letters, unless the other side says that it is a unit.
SURE_SHORT = frozenset(short for short in _SHORT if len(short) > 2)
SHORT = frozenset(_SHORT)


def is_unit_name(word: str) -> bool:
    return word in SHORT or word.lower() in KNOWN


def unit_name(word: str) -> str:
    """The one name of a unit word.

    >>> [unit_name(word) for word in ("mW", "MW", "KM", "metres", "kWh", "berries")]
    ['milliwatt', 'megawatt', 'kilometer', 'meter', 'kilowatt hour', 'berry']
    """
    if word in _SHORT:
        return _SHORT[word]
    lowered = word.lower()
    if lowered in _CANONICAL:
        return _CANONICAL[lowered]
    if len(lowered) > 3 and lowered.endswith("ies"):
        return lowered[:-3] + "y"
    is_plural = len(lowered) > 2 and lowered.endswith("s") and not lowered.endswith("ss")
    singular = lowered[:-1] if is_plural else lowered
    return _CANONICAL.get(singular, singular)
