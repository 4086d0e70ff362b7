r"""The last layer: what only a computer algebra system reads (sums, integrals, limits, products, matrix arithmetic).

latex2sympy2 turns LaTeX into SymPy; what it cannot read is tried with latex2sympy2_extended where that is importable.
Both are fenced in:
- only LaTeX of a bounded size, without assignments, reaches them: latex2sympy2 keeps what "x = 3" says in global
  variables, and the answer of one prompt must not change the verdict of another;
- its reading counts only if it used the whole text (its grammar stops silently at the first token it cannot use);
- nothing is ever handed to `sympify`, `parse_expr` or `eval`;
- numbers that would be slow to write out are refused before SymPy sees them, and every worker has limits of time and
  memory around this.

SymPy's own verdict is not enough: `simplify(a - b) == 0` must be confirmed by numbers at the probing points, and where
`simplify` has no verdict the numbers alone decide.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from megatron_ar3po.rewards.math.numeric import DIGITS, _context, probing_points

MAX_CHARS = 600
MAX_NESTING = 16
_MAX_OPERATIONS = 400
_MAX_NUMBER = 12  # digits of an integer that may become a bound or an exponent

_ASSIGNS = re.compile(r"[=<>&]|\\(?:le|ge|ne|in|to|gets|variable|xrightarrow)(?![A-Za-z])")
_LONG_NUMBER = re.compile(rf"\d{{{_MAX_NUMBER + 1},}}|\d[eE][+-]?\d{{3,}}")
_TOWER = re.compile(r"\d ?\^ ?\{[^{}]*\d ?\^|\^ ?\{? ?\d{4,}|\d{4,} ?!|! ?\)? ?!|\)\s*!\s*\)\s*!")
_NEEDS_ALGEBRA = re.compile(
    r"\\(?:int|oint|sum|prod|lim|begin|frac ?\{ ?d|det|gcd|lcm|max|min|operatorname|bmod|mod|pmod)"
)


@dataclass(frozen=True)
class Symbolic:
    equal: bool
    reason: str


class Unsupported(ValueError):
    """Not for this layer, or none of the parsers reads it whole."""


_WARM_UP = (
    r"\begin{bmatrix}1&2\\3&4\end{bmatrix}+\begin{bmatrix}1&0\\0&1\end{bmatrix}",
    r"\int_{0}^{1} x^{2} dx+\sum_{k=1}^{3} k^{2}",
    r"\lim_{x \to 0} \frac{\sin x}{x} \cdot \prod_{k=1}^{3} (k+1)",
)


def preload() -> None:
    """Import SymPy and the parsers now, and let them read a little: they work their grammars out while they read, which
    cost the first item a second. A worker does so before it takes items."""
    _parsers()
    for text in _WARM_UP:
        with contextlib.suppress(Unsupported):  # where no parser is installed
            _compare(parse(text), parse(text))


def equal(left: str, right: str) -> Symbolic:
    """Whether two tidied LaTeX expressions are equal."""
    if not (_NEEDS_ALGEBRA.search(left) or _NEEDS_ALGEBRA.search(right)):
        return Symbolic(False, "neither side needs computer algebra")
    try:
        a, b = parse(left), parse(right)
    except Unsupported as error:
        return Symbolic(False, f"not tried: {error}")
    except RecursionError:
        return Symbolic(False, "not tried: nested too deeply")
    try:
        return _compare(a, b)
    except MemoryError:
        raise  # the worker's limit, not SymPy's opinion
    except Exception as error:
        # SymPy raises many kinds of errors at expressions that make no sense (a diverging sum): no verdict.
        return Symbolic(False, f"no verdict: {str(error)[:80] or type(error).__name__}")


# --- reading


def parse(text: str) -> Any:
    """The SymPy object of a tidied expression, read as a whole."""
    _admit(text)
    reasons = []
    for name, reader in _parsers():
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # antlr and latex2sympy2 print
                return reader(text)
        except MemoryError:
            raise
        except Unsupported as error:
            reasons.append(f"{name}: {error}")
        except Exception as error:
            # The third-party parsers raise whatever they like at untrusted text (bare Exception, AttributeError,
            # antlr's own): all of it means that they cannot read this.
            reasons.append(
                f"{name}: {str(error).splitlines()[0][:80] if str(error) else type(error).__name__}"
            )
    raise Unsupported("; ".join(reasons) or "latex2sympy2 is not installed")


def _admit(text: str) -> None:
    if len(text) > MAX_CHARS:
        raise Unsupported(f"longer than {MAX_CHARS} characters")
    inside = re.sub(r"\\(?:begin|end) ?\{[^{}]*\}", "", text)
    is_matrix = r"\begin" in text
    lower_bounds = re.sub(r"_ ?\{ ?[a-zA-Z] ?= ?[^{}=]*\}", "", inside)  # \sum_{k=1}
    lower_bounds = re.sub(r"_ ?\{ ?[a-zA-Z] ?\\to ?[^{}=]*\}", "", lower_bounds)  # \lim_{x \to 0}
    if _ASSIGNS.search(lower_bounds.replace("&", " ") if is_matrix else lower_bounds):
        raise Unsupported("a relation or an assignment")
    if _LONG_NUMBER.search(text) or _TOWER.search(text):
        raise Unsupported("a number too large to write out")
    depth = deepest = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    if depth or deepest > MAX_NESTING:
        raise Unsupported("unbalanced or nested too deeply")


@lru_cache(maxsize=1)
def _parsers() -> tuple[tuple[str, Callable[[str], Any]], ...]:
    found: list[tuple[str, Callable[[str], Any]]] = []
    with contextlib.redirect_stdout(io.StringIO()):
        for name, make in (
            ("latex2sympy2", _plain_reader),
            ("latex2sympy2_extended", _extended_reader),
        ):
            try:
                found.append((name, make(importlib.import_module(name))))
            except ImportError:
                continue  # one of the two refuses the antlr runtime that the other one wants
    return tuple(found)


def _plain_reader(module: Any) -> Callable[[str], Any]:
    from antlr4 import CommonTokenStream, InputStream, Token

    def read(text: str) -> Any:
        # A fresh start: what an earlier text may have defined must not be known here.
        module.variances.clear()
        module.var.clear()
        module.VARIABLE_VALUES.clear()
        text = _for_latex2sympy(text)
        listener = module.MathErrorListener(
            text
        )  # raises at the first error; the default ones print
        lexer = module.PSLexer(InputStream(text))
        stream = CommonTokenStream(lexer)
        parser = module.PSParser(stream)
        for recognizer in (lexer, parser):
            recognizer.removeErrorListeners()
            recognizer.addErrorListener(listener)
        tree = parser.math()
        if stream.LA(1) != Token.EOF:
            raise Unsupported("it reads only the beginning")
        if tree.relation_list() or not tree.relation().expr():
            raise Unsupported("a relation or a list")
        return _require_expression(module.convert_expr(tree.relation().expr()))

    return read


def _extended_reader(module: Any) -> Callable[[str], Any]:
    return lambda text: _require_expression(module.latex2sympy(_for_latex2sympy(text)))


def _for_latex2sympy(text: str) -> str:
    text = re.sub(r"\\text ?\{([A-Za-z])\}", r"\1", text).replace("*", r"\cdot ")
    text = re.sub(r"([_^]|\\sqrt) ?([0-9A-Za-z])(?![0-9])", r"\1{\2}", text)
    text = re.sub(r"\\frac ?(\d) ?(\d)", r"\\frac{\1}{\2}", text)
    return re.sub(r"\\begin ?\{(?:array|matrix|smallmatrix)\} ?(?:\{[lcr| ]*\})?", r"\\begin{bmatrix}", text).replace(
        r"\end{array}", r"\end{bmatrix}").replace(r"\end{matrix}", r"\end{bmatrix}")  # fmt: skip


def _require_expression(parsed: Any) -> Any:
    import sympy

    if not isinstance(parsed, sympy.Expr | sympy.MatrixBase | sympy.MatrixExpr):
        raise Unsupported(f"it is a {type(parsed).__name__}")
    if isinstance(parsed, sympy.Expr) and parsed.count_ops() > _MAX_OPERATIONS:
        raise Unsupported("too many operations")
    return parsed


# --- comparing


def _compare(a: Any, b: Any) -> Symbolic:
    import sympy

    a, b = _evaluate(a), _evaluate(b)
    a_matrix, b_matrix = isinstance(a, sympy.MatrixBase), isinstance(b, sympy.MatrixBase)
    if a_matrix != b_matrix:
        return Symbolic(False, "a matrix and a number")
    if a_matrix:
        if a.shape != b.shape:
            return Symbolic(False, "matrices of different shapes")
        pairs = list(zip(a, b, strict=True))
        verdicts = [_same_value(x, y) for x, y in pairs]
        return next((v for v in verdicts if not v.equal), Symbolic(True, "equal matrices"))
    return _same_value(a, b)


def _evaluate(value: Any) -> Any:
    import sympy

    value = value.doit()
    if isinstance(value, sympy.MatrixExpr):
        value = value.as_explicit()
    return value


def _same_value(a: Any, b: Any) -> Symbolic:
    import sympy

    if a == b:
        return Symbolic(True, "the same expression")
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    if a.is_Rational and b.is_Rational:
        return Symbolic(False, "different numbers")
    ctx = _context(DIGITS)
    names = [str(symbol) for symbol in symbols]
    agreed = 0
    for point in probing_points(names, ctx) if names else [{}]:
        values = {symbol: sympy.Float(str(point[str(symbol)]), DIGITS) for symbol in symbols}
        x, y = (side.subs(values).evalf(DIGITS, maxn=4 * DIGITS) for side in (a, b))
        if not (x.is_number and y.is_number and x.is_finite and y.is_finite):
            continue
        difference = abs(complex(x - y)) if abs(complex(x)) < 1e15 else float(abs((x - y) / x))
        if difference > 1e-30 and not sympy.Abs(x - y) < sympy.Float("1e-30") * (1 + sympy.Abs(x)):
            return Symbolic(False, "different values at a probing point")
        agreed += 1
    if agreed >= (2 if names else 1):
        return Symbolic(True, "the same values at every probing point")
    return Symbolic(False, "no values to compare")
