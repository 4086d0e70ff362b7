r"""One spelling for everything that is written in many: LaTeX commands, Unicode signs, spacing, thousands separators.

`tidy` keeps the meaning and the layout of an answer (brackets, commas, relations stay where they are), so that the
readers behind it meet one `\frac`, one `*`, one `\le`, one `°`. Every pattern here runs in linear time.
"""

from __future__ import annotations

import re

from megatron_ar3po.rewards.math.unicode_signs import from_unicode
from megatron_ar3po.rewards.math.words import words

_DROPPED = words(
    "left right bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm Bigm big Big bigg Bigg middle "
    "displaystyle textstyle scriptstyle limits nolimits boldsymbol bm mathstrut noindent centering hfill "
    "rm bf it protect cancel phantom tiny scriptsize footnotesize small normalsize large Large LARGE huge Huge "
)
_SPACES = words("quad qquad enspace thinspace medspace thickspace space hfil newline ")
_TEXTS = words(
    "text textnormal textrm textbf textit textsf texttt textup mbox hbox mathrm mathbf mathit mathsf "
    "mathnormal operatorname emph mathcal mathfrak mathscr "
)
COMMANDS: dict[str, str] = {
    **dict.fromkeys(_DROPPED, ""),
    **dict.fromkeys(_SPACES, " "),
    **dict.fromkeys(_TEXTS, r"\text"),
    **dict.fromkeys(words("dfrac tfrac cfrac frac sfrac nicefrac flatfrac"), r"\frac"),
    **dict.fromkeys(("dbinom", "tbinom", "binom"), r"\binom"),
    **dict.fromkeys(("le", "leq", "leqslant", "leqq"), r"\le "),
    **dict.fromkeys(("ge", "geq", "geqslant", "geqq"), r"\ge "),
    **dict.fromkeys(("ne", "neq"), r"\ne "),
    **dict.fromkeys(("approx", "simeq", "thickapprox", "doteq"), r"\approx "),
    **dict.fromkeys(("cdot", "times", "ast", "bullet"), "*"),
    **dict.fromkeys(("vert", "lvert", "rvert", "mid", "lVert", "rVert", "Vert"), "|"),
    **dict.fromkeys(("emptyset", "varnothing"), r"\emptyset "),
    **dict.fromkeys(("dots", "ldots", "cdots", "dotsc", "dotsb"), r"\dots "),
    **dict.fromkeys(("overline", "bar", "widebar"), r"\overline"),
    **dict.fromkeys(("setminus", "backslash", "smallsetminus"), r"\setminus "),
    "lt": "<", "gt": ">", "div": "/", "colon": ":", "lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]",
    "degree": "°", "prime": "'", "infin": r"\infty ", "varepsilon": r"\epsilon ", "varphi": r"\phi ", "dollar": r"\$",
    "cr": "\\\\", "Bbb": r"\mathbb",
    "R": r"\mathbb{R}", "Reals": r"\mathbb{R}", "reals": r"\mathbb{R}", "vartheta": r"\theta ", "lg": r"\log_{10}",
}  # fmt: skip
_COMMAND = re.compile(r"\\([A-Za-z]+)\*?")
_DOLLARS = re.compile(r"(?<!\\)\$+")
_PRICE = re.compile(r"\s*-?\$ ?\d[\d,.]*\s*")  # no formula begins there
_STYLED_LETTER = re.compile(
    r"\\(?:mathbf|mathit|mathsf|mathcal|mathfrak|mathscr|boldsymbol|bm) ?\{([A-Za-z])\}"
)
_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALE = re.compile(  # 3 million, 3\text{ million}, 3\text{ million dollars}
    r"(?<=\d) ?(\\text ?\{)? ?(thousand|million|billion|trillion)\b ?(?(1)(\}| (?=[^{}]*\})))"
)
_MANY_SPACES = re.compile(r" {2,}")
_TIMES_TEN = re.compile(r"(?<=\d) ?[xX] ?(?=10 ?\^)")
_ABOUT = re.compile(
    r"(?:about|approximately|approx\.?|roughly|around|exactly)\s+(?=\S)", re.IGNORECASE
)
_SPACING = re.compile(r"(?<!\\)\\[,;:> ]|~|\s")
_SURE_THOUSANDS = re.compile(r"(?<=\d) ?(?:\{ ?, ?\}|, ?\\!)\s*(?=\d{3})")
_NO_BRACKET = re.compile(r"\\(?:left|right|[bB]igg?[lr]?)\s*\.")
_LAYOUT = re.compile(
    r"\\(?:hspace|vspace|hskip|kern|phantom|hphantom|vphantom|label|tag|color|textcolor)\*?\s*\{[^{}]*\}"
)
_NUMBER_SETS = re.compile(r"\\(?:mathbf|boldsymbol|bm|Bbb) ?\{([RZNQC])\}")
_UPRIGHT = re.compile(
    r"\\(?:mathrm|text|textrm|operatorname|rm) ?\{ ?([ie]) ?\}"
)  # units are never i or e
_LIBRARY = re.compile(r"(?<![\w\\.])(?:np|numpy|math|sympy|sp)\.(?=[a-z])")
_ORDINAL = re.compile(
    r"(?<=\d) ?\^ ?(?:\{ ?)?\\(?:text|mathrm|textrm|mbox) ?\{ ?(st|nd|rd|th) ?\}(?: ?\})?"
    r"|(?<=\d) ?\^ ?\{ ?(st|nd|rd|th) ?\}"
)
_BRACED_SIGN = re.compile(r"(?<![\^_A-Za-z}] )(?<![\^_A-Za-z}\\])\{ ?([:=<>+\-]) ?\}")
_EMPTY_TEXT = re.compile(r"\\(?:text(?:rm|bf|it)?|mathrm|mbox) ?\{ *([.,:;]?) *\}")
_PYTHON_POWER = re.compile(r"(?<=[\w)}\]])\*\*(?=[\w({\\-])")
_APOSTROPHES = re.compile(r"(?<![\d.,'])\d{1,3}(?:'\d{3})+(?![\d'])")
_REPEATING_DOTS = re.compile(
    r"(?<=[\d.])\\dot ?(?:\{ ?(\d+) ?\}|(\d))(?:(\d*)\\dot ?(?:\{ ?(\d) ?\}|(\d)))?"
)
_CHOOSE = re.compile(
    r"(?<![\w}])[_^] ?\{? ?(\d+) ?\}? ?(?:C|\\text ?\{ ?C ?\}) ?_ ?\{? ?(\d+) ?\}?"
    r"|(?<![A-Za-z\\])(?:C|\\text ?\{ ?C ?\}) ?(?:_ ?\{? ?(\d+) ?\}? ?\^ ?\{? ?(\d+) ?\}?|\( ?(\d+) ?, ?(\d+) ?\))"
)
_SCRIPT = r"(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|\\[A-Za-z]+|[\w'])"
_RAISED_FIRST = re.compile(rf"(?<=[A-Za-z'}}])( ?\^ ?{_SCRIPT})( ?_ ?{_SCRIPT})")  # u^2_0
_FLAT_SCRIPTS = re.compile(r"(?:[\^_] ?)?\{ ?\}(?= ?[\^_])")  # {}_5C_2, T_a{}^b, m^{}_0
_WITHOUT = re.compile(r"(\\mathbb ?\{R\}) ?- ?(?=\\\{)")
_DEGREE = re.compile(r"\s*\^\s*(?:\{\s*(?:\\circ|°)\s*\}|\\circ(?![A-Za-z])|°|\{\s*o\s*\})")
_PRIME = re.compile(r"\^\s*(?:\{\s*('+)\s*\}|('+))")
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,^_])\d{1,3}(?: \d{3})+(?![\d])")
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z]{2}|[{}%$;!])")
_DOUBLE_RELATIONS = (
    ("<=", r"\le "),
    (">=", r"\ge "),
    ("!=", r"\ne "),
    (r"\not=", r"\ne "),
    ("==", "="),
    (":=", "="),
)


def _overline_cycle(match: re.Match[str]) -> str:
    """Dots over the first and the last digit of the cycle."""
    cycle = (match[1] or match[2]) + (match[3] or "") + (match[4] or match[5] or "")
    return rf"\overline{{{cycle}}}"


def _combinations(match: re.Match[str]) -> str:
    """The binomial coefficient as _5C_2, C_5^2 or C(5,2)."""
    over, under = (group for group in match.groups() if group is not None)
    return rf"\binom{{{over}}}{{{under}}}" if int(under[:9]) <= int(over[:9]) else match[0]


def _power_of_ten(match: re.Match[str]) -> str:
    rest = r"\text{ " if match[3] == " " else " "  # the unit goes on inside
    return f"*10^{{{_SCALES[match[2]]}}}{rest}"


def _spreadsheet_spelling(text: str) -> str:
    """What comes from programs: x**2, np.sqrt, 1'000'000, `code`."""
    if "**" in text:
        text = _PYTHON_POWER.sub("^", text)
    if "." in text:
        text = _LIBRARY.sub("", text)
    if "'" in text:
        text = _APOSTROPHES.sub(lambda m: m[0].replace("'", ""), text)
    return text.replace("`", " ") if "`" in text else text


def _command(match: re.Match[str]) -> str:
    replaced = COMMANDS.get(match[1])
    return match[0] if replaced is None else replaced


def undouble(text: str) -> str:
    r"""Undo one level of escaping: `\\frac` is `\frac` unless `\\` may separate the rows of an environment."""
    if "\\\\" not in text:
        return text
    if r"\\begin" in text and r"\\\begin" not in text:
        return text.replace("\\\\", "\\")
    return text if r"\begin" in text else _DOUBLED.sub(lambda _: "\\", text)


def tidy(text: str) -> str:
    r"""The same answer in one spelling.

    >>> tidy(r"$\dfrac{1}{2} \leqslant x$"), tidy("10\u202f000"), tidy(r"10,\!080 \text{ cm}²")
    ('\\frac{1}{2} \\le x', '10000', '10080 \\text{ cm}^{2}')
    """
    if not text.isascii():
        text = from_unicode(text)
    if "$" in text and _PRICE.fullmatch(text):
        text = text.replace("$", r"\$")
    if "\\" in text:
        text = _SURE_THOUSANDS.sub("", _EMPTY_TEXT.sub(lambda m: m[1] or " ", undouble(text)))
        text = text.replace(r"\!", "").replace("{,}", ",").replace(r"\%", "%").replace(r"\&", "&")
        text = text.replace(r"\(", " ").replace(r"\)", " ").replace(r"\|", "|").replace(r"\/", "")
        if "\\\\[" not in text:
            text = text.replace(r"\[", " ").replace(r"\]", " ")
        text = _LAYOUT.sub("", _NO_BRACKET.sub("", text) if "." in text else text)
        if "^" in text:
            text = _ORDINAL.sub(lambda m: rf"\text{{{m[1] or m[2]}}}", text)
        text = _UPRIGHT.sub(r"\1 ", _NUMBER_SETS.sub(r"\\mathbb{\1}", text))
        text = _COMMAND.sub(_command, _STYLED_LETTER.sub(r"\1 ", text))
        if r"\dot" in text:
            text = _REPEATING_DOTS.sub(_overline_cycle, text)
        if r"\mathbb" in text:
            text = _WITHOUT.sub(lambda m: m[1] + r"\setminus ", text)
    elif "{" in text:
        text = _SURE_THOUSANDS.sub("", text)
    if "{" in text:
        text = _BRACED_SIGN.sub(r"\1", _FLAT_SCRIPTS.sub("", text))
    if "C" in text:
        text = _CHOOSE.sub(_combinations, text)
    text = _spreadsheet_spelling(text)
    text = _SPACING.sub(" ", text)
    if "$" in text:
        text = _DOLLARS.sub(" ", text)
    for spelling, relation in _DOUBLE_RELATIONS:
        if spelling in text:
            text = text.replace(spelling, relation)
    if "^" in text:
        if "_" in text:
            text = _RAISED_FIRST.sub(r"\2\1", text)
        text = _PRIME.sub(lambda m: m[1] or m[2], _DEGREE.sub("°", text))
    if "illion" in text or "thousand" in text:
        text = _SCALE.sub(_power_of_ten, text)
    text = (_MANY_SPACES.sub(" ", text) if "  " in text else text).strip().lstrip(" *:")
    about = _ABOUT.match(text)
    if about:
        text = text[about.end() :]
    if "10" in text:
        text = _TIMES_TEN.sub("*", text)
    if " " in text:
        text = _SPACED_THOUSANDS.sub(lambda m: m[0].replace(" ", ""), text)
    return _without_trailing_marks(text)


def _without_trailing_marks(text: str) -> str:
    """Full stops, commas and line breaks at the end belong to the sentence, not to the answer."""
    while True:
        stripped = text.rstrip(" .,;:*" if not text.endswith("!") else " ").removesuffix("\\\\")
        if stripped.endswith("\\") and not stripped.endswith("\\\\"):
            stripped = stripped[:-1]
        if stripped == text:
            return text
        text = stripped


_BETWEEN_DIGITS = re.compile(r"(?<=\d) (?=\d)")


def compact(tidied: str) -> str:
    """For comparing spellings: no spaces, except where they keep two numbers apart ("1 1/2" is not "11/2")."""
    if " " not in tidied:
        return tidied
    return _BETWEEN_DIGITS.sub("\x00", tidied).replace(" ", "").replace("\x00", " ")
