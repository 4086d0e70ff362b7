"""Values of syntax trees: exact where they are rational, else to many digits; and equality by probing.

Two expressions are equal when they agree at every probing point to about 50 digits (two analytic expressions that do,
and differ, are not met by chance: Schwartz-Zippel). Constants that happen to be close are told apart because the
precision grows with the digits that stand in them, and a difference near zero is computed twice: noise shrinks with
the precision, a real difference stays. Numbers that are both rational are compared exactly and never rounded.

Nothing here can blow up: every value is bounded in size before it is computed, else `TooLarge`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

from mpmath.ctx_mp import MPContext
from mpmath.libmp.libhyper import NoConvergence

from megatron_ar3po.rewards.math.exact import MAX_FACTORIAL, TooLarge, Undefined, exact
from megatron_ar3po.rewards.math.trees import Node, size, uses, variables
from megatron_ar3po.rewards.math.words import words

MAX_MAGNITUDE = 20_000  # |log2| of an approximate one

MAX_VARIABLES = 24
DIGITS = 50
MAX_DIGITS_AT_WORK = 4_000
MAX_DIGITS_OF_GAMMA = 400  # beyond which it takes long
MAX_WORK = 300_000  # digits times nodes
_POSITIVE_POINTS = 3
_SIGNED_POINTS = 4


# --- approximate values

_UNARY: dict[str, Callable[[MPContext, Any], Any]] = {
    **{name: lambda ctx, x, f=name: getattr(ctx, f)(x)
       for name in words(
    "sin cos tan cot sec csc exp floor ceil sinh cosh tanh coth sech csch "
)},
    **{f"arc{name}": lambda ctx, x, f=f"a{name}": getattr(ctx, f)(x)
       for name in words(
    "sin cos tan cot sec csc sinh cosh tanh "
)},
    "ln": lambda ctx, x: ctx.log(x),
    "abs": lambda ctx, x: abs(x),
    "sgn": lambda ctx, x: ctx.sign(x),
    "cis": lambda ctx, x: ctx.expj(x),
    "Re": lambda ctx, x: ctx.re(x),
    "Im": lambda ctx, x: ctx.im(x),
    "factorial": lambda ctx, x: ctx.factorial(x),
}  # fmt: skip
_GROWS = frozenset({"exp", "sinh", "cosh", "tanh", "coth", "sech", "csch"})


@lru_cache(maxsize=64)
def _context(digits: int) -> MPContext:
    context = MPContext()
    context.dps = digits
    context.extent = 0  # the largest |log2| of a value met since this was last set to 0
    return context


def approximate(node: Node, point: Mapping[str, Any], ctx: MPContext, log_base: int = 0) -> Any:
    r"""The value at a point, an mpf or mpc. `log_base` is what \log without a base means (0: natural)."""
    try:
        return _value(node, point, ctx, log_base)
    except (ZeroDivisionError, ValueError, OverflowError, NoConvergence) as error:
        raise Undefined(str(error)) from error


def _value(node: Node, point: Mapping[str, Any], ctx: MPContext, log_base: int) -> Any:
    kind = node[0]
    if kind == "num":
        return ctx.mpf(node[1].numerator) / node[1].denominator
    if kind == "sym":
        return point[node[1]]
    if kind == "const":
        return ctx.mpc(0, 1) if node[1] == "i" else +(ctx.pi if node[1] == "pi" else ctx.e)
    if kind == "add":
        return _require_size(ctx, ctx.fsum(_value(term, point, ctx, log_base) for term in node[1]))
    if kind == "mul":
        return _require_size(
            ctx, ctx.fprod(_value(factor, point, ctx, log_base) for factor in node[1])
        )
    if kind == "fn":
        return _require_size(
            ctx,
            _function_value(
                node[1], [_value(a, point, ctx, log_base) for a in node[2]], ctx, log_base
            ),
        )
    left, right = _value(node[1], point, ctx, log_base), _value(node[2], point, ctx, log_base)
    if kind == "div":
        return _require_size(ctx, left / right)
    if kind == "pow":
        return _require_size(ctx, _power_value(left, right, ctx))
    return _require_size(ctx, _root_value(right, left, ctx))


def _require_size(ctx: MPContext, value: Any) -> Any:
    if not ctx.isfinite(value):
        raise Undefined("not finite")
    if value != 0:
        magnitude = abs(ctx.mag(value))
        if magnitude > MAX_MAGNITUDE:
            raise TooLarge("a value too large or too small")
        ctx.extent = max(ctx.extent, magnitude)
    return value


def _power_value(base: Any, exponent: Any, ctx: MPContext) -> Any:
    if base == 0:
        if ctx.re(exponent) <= 0:
            raise Undefined("zero to a power that is not positive")
        return ctx.mpf(0)
    if abs(exponent) * (abs(ctx.mag(base)) + 1) > MAX_MAGNITUDE * 2:
        raise TooLarge("a power too large")
    return ctx.power(base, exponent)


def _root_value(radicand: Any, index: Any, ctx: MPContext) -> Any:
    """An odd root of a negative number is the real one, as in school."""
    if ctx.im(radicand) == 0 and ctx.re(radicand) < 0 and ctx.isint(index) and int(index.real) % 2:
        return -_power_value(-radicand, 1 / index, ctx)
    return ctx.sqrt(radicand) if index == 2 else _power_value(radicand, 1 / index, ctx)


def _function_value(name: str, arguments: Sequence[Any], ctx: MPContext, log_base: int) -> Any:
    x = arguments[0]
    if name == "log":
        base = arguments[1] if len(arguments) > 1 else log_base
        return ctx.log(x) / ctx.log(base) if base else ctx.log(x)
    is_gamma = name in ("binomial", "factorial") and not all(map(ctx.isint, arguments))
    if is_gamma and ctx.dps > MAX_DIGITS_OF_GAMMA:
        raise TooLarge("a factorial between whole numbers to many digits")
    if name == "binomial":
        if max(abs(v) for v in arguments) > MAX_FACTORIAL:
            raise TooLarge("a binomial too large")
        return ctx.binomial(*arguments)
    if name in ("max", "min") and all(ctx.im(v) == 0 for v in arguments):
        return max(map(ctx.re, arguments)) if name == "max" else min(map(ctx.re, arguments))
    if (name in _GROWS and abs(x) > MAX_MAGNITUDE) or (
        name == "factorial" and abs(x) > MAX_FACTORIAL
    ):
        raise TooLarge(f"{name} of a large number")
    if name in ("floor", "ceil"):
        return _round_to_integer(x, name, ctx)
    if name not in _UNARY:
        raise Undefined(f"no value for {name}")
    return _UNARY[name](ctx, x)


def _round_to_integer(x: Any, name: str, ctx: MPContext) -> Any:
    """A value within the noise of an integer is that integer: floor(log_2 8) is 3."""
    nearest = ctx.nint(ctx.re(x))
    if abs(x - nearest) < ctx.mpf(10) ** (15 - ctx.dps):
        return nearest
    return ctx.floor(ctx.re(x)) if name == "floor" else ctx.ceil(ctx.re(x))


# --- equality


def expressions_equal(left: Node, right: Node, *, tolerance: Fraction = Fraction(0)) -> bool:
    """Whether two trees have the same value for every value of their variables."""
    names = variables(left) | variables(right)
    if not names:
        return constants_equal(left, right, tolerance=tolerance)
    if len(names) > MAX_VARIABLES:
        return False
    bases = (0, 10) if uses(left, "log") or uses(right, "log") else (0,)
    return any(_agree_everywhere(left, right, sorted(names), base) for base in bases)


def constants_equal(left: Node, right: Node, *, tolerance: Fraction = Fraction(0)) -> bool:
    try:
        a, b = exact(left), exact(right)
        if a is not None and b is not None:
            return abs(a - b) <= tolerance
        bases = (0, 10) if uses(left, "log") or uses(right, "log") else (0,)
        return any(_same_constant(left, right, base, tolerance) for base in bases)
    except (Undefined, TooLarge):
        return False


def _same_constant(left: Node, right: Node, log_base: int, tolerance: Fraction) -> bool:
    ctx = _context(_digits_for(left, right, 2_000))
    a, b, ctx = _both_values(left, right, {}, ctx, log_base)
    if tolerance and ctx.im(a) == 0 and ctx.im(b) == 0:
        return abs(a - b) <= ctx.mpf(tolerance.numerator) / tolerance.denominator
    return _are_close(
        a,
        b,
        ctx,
        lambda finer: (
            approximate(left, {}, finer, log_base),
            approximate(right, {}, finer, log_base),
        ),
    )


def _both_values(
    left: Node, right: Node, point: Mapping[str, Any], ctx: MPContext, log_base: int
) -> tuple[Any, Any, MPContext]:
    """Both values, with enough digits to see the smallest term beside the largest (pi 10^50 + 1 is not pi 10^50)."""
    ctx.extent = 0
    a, b = approximate(left, point, ctx, log_base), approximate(right, point, ctx, log_base)
    needed = DIGITS + int(ctx.extent * 0.61)  # both ends: terms of 2^extent and of 2^-extent
    if needed <= ctx.dps + 12:
        return a, b, ctx
    if needed > MAX_DIGITS_AT_WORK or needed * (size(left) + size(right)) > MAX_WORK:
        raise TooLarge("terms too far apart in size")
    fine = _context(needed)
    finer_point = {name: fine.mpf(value) for name, value in point.items()}
    return (
        approximate(left, finer_point, fine, log_base),
        approximate(right, finer_point, fine, log_base),
        fine,
    )


def _are_close(
    a: Any, b: Any, ctx: MPContext, again: Callable[[MPContext], tuple[Any, Any]]
) -> bool:
    """Equal up to rounding noise; in doubt (both near zero by cancellation) compute again with twice the digits."""
    difference = abs(a - b)
    if difference <= ctx.mpf(10) ** (12 - ctx.dps) * max(abs(a), abs(b)):
        return True
    if difference > ctx.mpf(10) ** (-ctx.dps // 3) * max(abs(a), abs(b), 1):
        return False
    finer = _context(2 * ctx.dps)
    c, d = again(finer)
    return abs(c - d) <= finer.mpf(difference) * finer.mpf(10) ** (-ctx.dps // 2)


def _digits_for(left: Node, right: Node, most: int) -> int:
    """Enough to tell apart what is written, and not more than can be worked with in time."""
    digits = DIGITS + min(_written_digits(left) + _written_digits(right), most)
    if digits > 4 * DIGITS and digits * (size(left) + size(right)) > MAX_WORK:
        raise TooLarge("many long numbers")
    return digits


def _written_digits(node: Node) -> int:
    """How many digits stand in the numbers of a tree: what a comparison must be able to see."""
    total, stack = 0, [node]
    while stack:
        item: Any = stack.pop()
        if isinstance(item, tuple):
            stack.extend(item)
        elif isinstance(item, Fraction):
            total += (item.numerator.bit_length() + item.denominator.bit_length()) // 3
    return total if total > 20 else 0


def _agree_everywhere(left: Node, right: Node, names: Sequence[str], log_base: int) -> bool:
    """At positive points both must agree; at points of any sign where both are real (so that |x| is not x, but
    ln x^2 may be 2 ln x). At least two points must say yes."""
    try:
        ctx = _context(_digits_for(left, right, 1_000))
    except TooLarge:
        return False
    confirmed = 0
    for number, point in enumerate(probing_points(names, ctx)):
        try:
            a, b, fine = _both_values(left, right, point, ctx, log_base)
        except Undefined:
            continue
        except TooLarge:
            return False
        if number >= _POSITIVE_POINTS and (fine.im(a) != 0 or fine.im(b) != 0):
            continue

        def again(finer: MPContext, point: Mapping[str, Any] = point) -> tuple[Any, Any]:
            same = {name: finer.mpf(value) for name, value in point.items()}
            return approximate(left, same, finer, log_base), approximate(
                right, same, finer, log_base
            )

        if not _are_close(a, b, fine, again):
            return False
        confirmed += 1
    return confirmed >= 2


def probing_points(names: Sequence[str], ctx: MPContext) -> list[dict[str, Any]]:
    """The same points for the same names in every process: positive ones first, then points of any sign."""
    draw = random.Random("|".join(names))
    points = []
    for number in range(_POSITIVE_POINTS + _SIGNED_POINTS):
        low = 0.1 if number < _POSITIVE_POINTS else -3.0
        points.append(
            {name: ctx.mpf(round(draw.uniform(low, 3.0) * 2**20)) / 2**20 for name in names}
        )
    return points


def is_proportional(left: Node, right: Node) -> int | None:
    """The sign of the constant c with left = c * right, 0 when c is not real; None when there is none or the variables
    differ. For equations and inequalities, which keep their meaning under such a factor."""
    names = variables(left)
    if not names or names != variables(right) or len(names) > MAX_VARIABLES:
        return None
    ctx = _context(DIGITS)
    factor = None
    for point in probing_points(sorted(names), ctx):
        try:
            a, b = approximate(left, point, ctx), approximate(right, point, ctx)
        except Undefined:
            continue
        except TooLarge:
            return None
        if abs(a) < 1e-30 or abs(b) < 1e-30:
            return None
        if factor is None:
            factor = a / b
        elif abs(a / b - factor) > abs(factor) * ctx.mpf(10) ** (15 - ctx.dps):
            return None
    if factor is None:
        return None
    return 0 if abs(ctx.im(factor)) > 1e-30 * abs(factor) else (1 if ctx.re(factor) > 0 else -1)
