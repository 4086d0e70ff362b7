"""The names that an expression may hold: functions, letters, accents."""

from __future__ import annotations

from megatron_ar3po.rewards.math.words import words

FUNCTIONS = words(
    "arcsin arccos arctan arccot arcsec arccsc arcsinh arccosh arctanh asin acos atan sinh cosh tanh coth "
    "sech csch sin cos tan cot sec csc ln log exp sqrt abs sgn floor ceil Re Im cis "
)
ALIASES = {
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "tg": "tan",
    "ctg": "cot",
    "arctg": "arctan",
}
OF_SEVERAL = frozenset(("gcd", "lcm", "max", "min"))
SYMBOLS = frozenset(
    words(
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron rho sigma tau "
        "upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega hbar ell odot "
        "oplus star partial nabla angle triangle "
    )
)
ACCENTS = frozenset(
    words("overline vec hat widehat tilde widetilde dot ddot underline overrightarrow ")
)
