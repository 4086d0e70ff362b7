"""Signs that Unicode has and LaTeX spells out: Greek letters, relations, roots, scripts, fractions, wide forms."""

from __future__ import annotations

import re
import unicodedata

from megatron_ar3po.rewards.math.words import words

_GREEK = words(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau "
    "upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega "
)
_SIGNS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": "*", "·": "*", "⋅": "*", "∙": "*", "÷": "/", "⁄": "/",
    "∕": "/", "∞": r"\infty ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ",
    "±": r"\pm ", "∓": r"\mp ", "√": r"\sqrt ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ",
    "∖": r"\setminus ", "⟨": r"\langle ", "⟩": r"\rangle ", "°": "°", "º": "°", "˚": "°", "′": "'", "’": "'", "‘": "'",
    "“": '"', "”": '"', "…": r"\dots ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ħ": r"\hbar ", "ϵ": r"\epsilon ",
    "ϕ": r"\phi ", "∆": r"\Delta ", "∠": r"\angle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ",
    "⌉": r"\rceil ", "≦": r"\le ", "≧": r"\ge ", "≡": r"\equiv ", "﹣": "-", "⁃": "-", "∗": "*", "⋯": r"\dots ",
    "∣": "|", "、": ",", "。": ".", "「": " ", "」": " ", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}",
    "ℓ": r"\ell ", "€": r"\text{ euro}", "£": r"\text{ pound}", "¥": r"\text{ yen}", "¢": r"\text{ cent}",
}  # fmt: skip
_TABLE = str.maketrans(
    {
        **_SIGNS,
        **{unicodedata.lookup(f"GREEK {'SMALL' if n.islower() else 'CAPITAL'} LETTER {_n}"): f"\\{n} " for n in _GREEK
           for _n in [{"lambda": "LAMDA", "Lambda": "LAMDA"}.get(n, n.upper())]},
        **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full-width forms
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\xad"),
    }
)  # fmt: skip
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉ₙ", "0123456789n", strict=True))
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_LOWERED = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_STYLED = re.compile("[\U0001d400-\U0001d7ff]")  # bold, italic, script letters and digits
_ROOTS = {"√": "", "∛": "[3]", "∜": "[4]"}
_ROOT_OF_NUMBER = re.compile(r"([√∛∜]) ?(?:(\d+(?:\.\d+)?)|(?=([^\d ]|$)))")


def _superscript(match: re.Match[str]) -> str:
    return "^{" + "".join(_SUPERSCRIPTS[c] for c in match[0]) + "}"


def _subscript(match: re.Match[str]) -> str:
    return "_{" + "".join(_SUBSCRIPTS[c] for c in match[0]) + "}"


def _fraction(match: re.Match[str]) -> str:
    over, _, under = unicodedata.normalize("NFKC", match[0]).partition("⁄")
    return rf"\frac{{{over}}}{{{under}}}"


def _root(match: re.Match[str]) -> str:
    """√12 is the root of twelve, not of one."""
    return rf"\sqrt{_ROOTS[match[1]]}" + (f"{{{match[2]}}}" if match[2] else " ")


def from_unicode(text: str) -> str:
    text = _STYLED.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    text = _RAISED.sub(_superscript, _LOWERED.sub(_subscript, _VULGAR.sub(_fraction, text)))
    return _ROOT_OF_NUMBER.sub(_root, text).translate(_TABLE)
