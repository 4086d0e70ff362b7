r"""LaTeX arithmetic -> a small syntax tree.

A reader of our own for the part of LaTeX that answers are made of: numbers, letters, + - * / ^ !, fractions, roots,
named functions, bars. It reads the whole text or raises `Unreadable`; it never guesses at a prefix, keeps no state
between calls, evaluates nothing, and its depth and size are bounded. (latex2sympy2, which comes after it, has global
variables that one answer could set for the next, and stops silently at the first token it cannot use.)
"""

from __future__ import annotations

from fractions import Fraction

from megatron_ar3po.rewards.math.differentials import quotient
from megatron_ar3po.rewards.math.known_names import ACCENTS, ALIASES, FUNCTIONS, OF_SEVERAL, SYMBOLS
from megatron_ar3po.rewards.math.tokens import (
    SCRIPTS,
    TokenReader,
    Unreadable,
    number_value,
    repeating_value,
    tokens_of,
)
from megatron_ar3po.rewards.math.trees import MINUS_ONE, ONE, Node, is_proper_fraction
from megatron_ar3po.rewards.math.words import words

MAX_DEPTH = 40
MAX_CHAIN = 16  # divisions in one product

_NO_FACTORS = frozenset(
    "\\" + name for name in words("rfloor rceil pm mp infty over choose bmod pmod mod")
)

_PAIRS = {"(": ")", "{": "}", "[": "]", "\\{": "\\}"}


def parse(text: str, *, tight: bool = False) -> Node:
    r"""The tree of a tidied expression. `tight` reads 1/2x as 1/(2x) instead of (1/2)x.

    >>> parse(r"-\frac{1}{2}x")
    ('mul', (('num', Fraction(-1, 1)), ('div', ('num', Fraction(1, 1)), ('num', Fraction(2, 1))), ('sym', 'x')))
    """
    parser = _Parser(tokens_of(text), tight=tight)
    node = parser.whole()
    if parser.peek() is not None:
        raise Unreadable(f"unexpected {parser.peek()!r}")
    return node


class _Parser(TokenReader):
    """Recursive descent, one token of look-ahead."""

    def __init__(self, tokens: list[tuple[str, str]], *, tight: bool) -> None:
        super().__init__(tokens)
        self._depth = 0
        self._bars = 0  # open |
        self._tight = tight

    def _descend(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")

    def whole(self) -> Node:
        r"""A sum, or two of them with \over or \choose between, which take all there is on both sides."""
        node = self.sum()
        if self.peek() == r"\over":
            self._next()
            return ("div", node, self.sum())
        if self.peek() == r"\choose":
            self._next()
            return ("fn", "binomial", (node, self.sum()))
        return node

    def sum(self) -> Node:
        self._descend()
        terms = [self._term()]
        while self.peek() in ("+", "-"):
            terms.append(self._term())
        self._depth -= 1
        return terms[0] if len(terms) == 1 else ("add", tuple(terms))

    def _term(self) -> Node:
        factors: list[Node] = []
        while self.peek() in ("+", "-"):
            if self._next()[1] == "-":
                factors.append(MINUS_ONE)
            if len(factors) > 8:
                raise Unreadable("too many signs")
        factors.append(self._product() if self._tight else self._mixed_or_power())
        num_divisions = 0  # each nests the tree one level deeper
        while True:
            token = self.peek()
            if token == "*":
                self._next()
                factors.append(self._signed_term())
            elif token == "/":
                self._next()
                divisor = self._product() if self._tight else self._signed_term()
                num_divisions += 1
                if num_divisions > MAX_CHAIN:
                    raise Unreadable("a chain of divisions")
                factors[-1] = ("div", factors[-1], divisor)
            elif token == r"\bmod":
                self._next()
                left = factors[0] if len(factors) == 1 else ("mul", tuple(factors))
                return ("fn", "mod", (left, self._signed_term()))
            elif not self._tight and self._starts_factor():
                factors.append(self._power())
            else:
                return factors[0] if len(factors) == 1 else ("mul", tuple(factors))

    def _product(self) -> Node:
        """Factors written side by side."""
        factors = [self._signed_term()]
        while self._starts_factor():
            factors.append(self._power())
        return factors[0] if len(factors) == 1 else ("mul", tuple(factors))

    def _signed_term(self) -> Node:
        if self.peek() in ("+", "-"):
            sign = self._next()[1]
            factor = self._power()
            return factor if sign == "+" else ("mul", (MINUS_ONE, factor))
        return self._mixed_or_power()

    def _mixed_or_power(self) -> Node:
        r"""1\frac{1}{2} and 1 1/2 are one and a half."""
        whole = self.peek()
        if self._kind() == "number" and whole is not None and whole.isdigit():
            if self.peek(1) == r"\frac":
                start = self._at
                self._next()
                part = self._power()
                if is_proper_fraction(part):
                    return ("add", (("num", number_value(whole)), part))
                self._at = start
            elif self._kind(1) == "gap" and self._kind(2) == "number" and self.peek(3) == "/":
                over, under = self.peek(2), self.peek(4)
                if (
                    over
                    and under
                    and over.isdigit()
                    and under.isdigit()
                    and int(over[:9]) < int(under[:9])
                ):
                    self._at += 5
                    fraction: Node = (
                        "div",
                        ("num", number_value(over)),
                        ("num", number_value(under)),
                    )
                    return ("add", (("num", number_value(whole)), fraction))
        return self._power()

    def _starts_factor(self) -> bool:
        kind, token = self._kind(), self.peek()
        if kind in ("number", "repeating"):
            return (
                not self._at
                or self._kind(-1) not in ("number", "repeating")
                or self.peek(-2) in SCRIPTS
            )
        if kind in ("letter", "word", "open"):
            return True
        if kind == "command":
            return token not in _NO_FACTORS
        return token == "|" and not self._bars

    def _power(self) -> Node:
        """a^b^c is a^(b^c)."""
        tower = [self._postfix(self._atom())]
        while self.peek() == "^":
            self._next()
            tower.append(self._postfix(self._script()) if len(tower) < 4 else self._refuse_tower())
        node = tower.pop()
        while tower:
            node = ("pow", tower.pop(), node)
        return node

    def _refuse_tower(self) -> Node:
        raise Unreadable("a tower of powers")

    def _postfix(self, node: Node) -> Node:
        num_signs = 0
        while self.peek() in ("!", "°", "%"):
            sign = self._next()[1]
            num_signs += 1
            if num_signs > 3:
                raise Unreadable("a chain of signs")
            if sign == "!" and self.peek() == "!":
                raise Unreadable("a double factorial")
            if sign == "!":
                node = ("fn", "factorial", (node,))
            elif sign == "°":
                node = ("mul", (node, ("const", "pi"), ("num", Fraction(1, 180))))
            else:
                node = ("mul", (node, ("num", Fraction(1, 100))))
        return node

    def _script(self) -> Node:
        """What follows ^: a group, or one token (x^23 is x^2 times 3 in LaTeX, but nobody means that: refuse)."""
        if self.peek() == "{":
            return self._group()
        if self.peek() in ("+", "-"):
            sign = self._next()[1]
            node = self._atom()
            return node if sign == "+" else ("mul", (MINUS_ONE, node))
        return self._atom()

    def _group(self) -> Node:
        _, opening = self._next()
        if opening not in _PAIRS:
            raise Unreadable(f"expected a group, found {opening!r}")
        bars, self._bars = self._bars, 0
        node = self.whole()
        self._bars = bars
        self._expect(_PAIRS[opening])
        return node

    def _argument(self) -> Node:
        r"""What a command like \frac takes: a group, or a single digit or letter."""
        if self._kind() == "gap":  # \frac 3 8
            self._next()
        kind, token = self._kind(), self.peek()
        if token == "{":
            return self._group()
        if kind == "number" and token is not None and token.isdigit() and len(token) > 1:
            # \frac12 is one half: hand out one digit, leave the rest
            self._tokens[self._at] = ("number", token[1:])
            return ("num", Fraction(token[0]))
        return self._atom()

    def _atom(self) -> Node:
        self._descend()
        node = self._unit()
        self._depth -= 1
        return node

    def _unit(self) -> Node:
        kind, token = self._next()
        if kind == "number":
            return ("num", number_value(token))
        if kind == "repeating":
            return ("num", repeating_value(token))
        if kind == "letter":
            return self._symbol(token)
        if kind == "word":
            return self._word(token)
        if kind == "open":
            self._at -= 1
            node = self._group()
            is_letter = token == "{" and node[0] == "sym" and self.peek() == "_"
            return self._symbol(node[1]) if is_letter else node  # {h}_{j}
        if token == "|":
            self._bars += 1
            node = self.sum()
            self._bars -= 1
            self._expect("|")
            return ("fn", "abs", (node,))
        if kind == "command":
            return self._command(token[1:])
        raise Unreadable(f"unexpected {token!r}")

    def _word(self, word: str) -> Node:
        if word == "pi":
            return ("const", "pi")
        if word.startswith("inf"):
            raise Unreadable("infinity is no number")
        return self._function(ALIASES.get(word, word))

    def _command(self, name: str) -> Node:
        if name == "frac":
            over = self._argument()
            return quotient(over, self._argument())
        if name == "sqrt":
            index: Node = ("num", Fraction(2))
            if self.peek() == "[":
                index = self._group()
            return ("root", index, self._argument())
        if name == "binom":
            over = self._argument()
            return ("fn", "binomial", (over, self._argument()))
        if name == "pi":
            return ("const", "pi")
        if name in ("lfloor", "lceil"):
            node = self.sum()
            self._expect("\\r" + name[1:])
            return ("fn", name[1:], (node,))
        if name in OF_SEVERAL:
            return ("fn", name, self._arguments())
        if name == "text":
            return self._text_symbol()
        if name in ACCENTS:
            return self._symbol(f"{name}({self._raw_group()})")
        if name in FUNCTIONS or name in ALIASES:
            return self._function(ALIASES.get(name, name))
        if name in ("angle", "triangle"):
            return self._symbol(name + self._points(name))
        if name in SYMBOLS:
            return self._symbol(name)
        raise Unreadable(f"\\{name} is not known")

    def _arguments(self) -> tuple[Node, ...]:
        """(a, b, ...), at least two."""
        _, opening = self._next()
        if opening not in _PAIRS:
            raise Unreadable(f"expected arguments, found {opening!r}")
        nodes = [self.sum()]
        while self.peek() == ",":
            self._next()
            nodes.append(self.sum())
        self._expect(_PAIRS[opening])
        if len(nodes) < 2:
            raise Unreadable("a function of several numbers has only one")
        return tuple(nodes)

    def _text_symbol(self) -> Node:
        name = self._raw_group()
        if name in FUNCTIONS:
            return self._function(ALIASES.get(name, name))
        if name in OF_SEVERAL:
            return ("fn", name, self._arguments())
        if name.isdecimal() and name.isascii():
            return ("num", number_value(name))
        if not name.isalnum() or len(name) > 20:
            raise Unreadable("text inside an expression")
        return self._symbol(name)

    def _symbol(self, name: str) -> Node:
        r"""A letter with its subscript and primes: x_{1}, f', R_\odot."""
        if self.peek() == "_":
            self._next()
            return ("sym", f"{name}_{self._raw_group()}")
        if self.peek() == "(" and self._kind(1) == "number" and self.peek(2) == ")":
            number = self.peek(1)  # I(0) is a value of I, not I times 0
            self._at += 3
            return ("sym", f"{name}({number})")
        return ("const", name) if name in ("e", "i") else ("sym", name)

    def _raw_group(self) -> str:
        """The text of a group or single token, spelled in one way."""
        kind, token = self._next()
        if token != "{":
            return (
                token.lstrip("\\") if kind != "command" or token != r"\text" else self._raw_group()
            )
        depth, parts = 1, []
        while depth:
            kind, token = self._next()
            depth += (token == "{") - (token == "}")
            if depth and token not in ("{", "}", r"\text") and kind != "gap":
                parts.append(token.lstrip("\\"))
        return "".join(parts)

    def _function(self, name: str) -> Node:
        r"""\sin^2 x, \log_2(8), \sin 2x \cos x (the argument ends before the next function)."""
        base = power = None
        for _ in range(2):
            if self.peek() == "_" and name == "log":
                self._next()
                base = self._script()
            elif self.peek() == "^":
                self._next()
                power = self._script()
        if name == "sqrt":
            node: Node = ("root", ("num", Fraction(2)), self._function_argument())
        else:
            argument = self._function_argument()
            if power == MINUS_ONE or power == ("mul", (MINUS_ONE, ONE)):
                name, power = f"arc{name}", None
            node = ("fn", name, (argument,) if base is None else (argument, base))
        return node if power is None else ("pow", node, power)

    def _function_argument(self) -> Node:
        if self._kind() == "open":
            return self._group()
        factors: list[Node] = []
        if self.peek() == "-":
            self._next()
            factors.append(MINUS_ONE)
        if self._is_function():
            return self._atom()
        factors.append(self._power())
        while self._starts_factor() and not self._is_function() and self._kind() != "open":
            factors.append(self._power())
        return factors[0] if len(factors) == 1 else ("mul", tuple(factors))

    def _is_function(self) -> bool:
        token = (self.peek() or "").lstrip("\\")
        return self._kind() in ("word", "command") and token in FUNCTIONS and token != "sqrt"
