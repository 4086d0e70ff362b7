r"""The verifier's own cases, written for it: (ground truth, answer) pairs that are equal or not, and whole responses.

Each group is one promise. All pairs are asked in both directions.
"""

# ruff: noqa: E501  (a table reads across)

from __future__ import annotations

Pair = tuple[str, str]

# --- the same answer, spelled differently

SPELLINGS: list[Pair] = [
    ("10\u2009000", "10000"), ("10\u202f000", "10,000"), (r"10\,000", "10000"), (r"12\,345", "12,345"),
    ("1{,}234", "1234"), (r"1,\!234", "1234"), (r"7,\! 500,\! 000", "7500000"), ("1 234 567", "1234567"),
    (r"\dfrac{3}{7}", r"\frac{3}{7}"), (r"\tfrac37", r"\frac{3}{7}"), (r"\cfrac{3}{7}", "3/7"), (r"\frac 3 7", "3/7"),
    (r"\$ 5.00", "5"), (r"\$18.90", "18.9"), (r"\$1,234.50", "1234.5"), ("USD 5", r"\$5"), ("5 dollars", r"\$5"),
    ("5.", "5"), ("x = 5.", "5"), (r"\text{5}", "5"), (r"\mathrm{5}", "5"), ("$5$", "5"), (r"\(5\)", "5"), (r"\[5\]", "5"),
    (r"\boxed{5}", "5"), ("**5**", "5"), ("+5", "5"), ("023", "23"), ("-.5", "-0.5"), ("5.0", "5"), ("−5", "-5"),
    (r"\{3,1,2\}", r"\{1,2,3\}"), ("1,2", "2, 1"), ("{2,3}", r"\{3,2\}"), ("2; 3", "3; 2"), ("9, 4, 7", "4, 7 and 9"),
    (r"\left(1,2\right)", "(1, 2)"), (r"\left[ 0,\, 1 \right)", "[0,1)"), (r"\langle 1,2\rangle", "(1,2)"),
    ("½", "0.5"), ("2½", "2.5"), ("π", r"\pi"), ("2π", r"2\pi"), ("√2", r"\sqrt{2}"), ("x²", "x^2"), ("3×4", "12"),
    (r"\sqrt7", r"\sqrt{7}"), ("x^{2}", "x^2"), (r"a_{1}", "a_1"), (r"\mathbf{x}", "x"), (r"\mathrm{e}", "e"),
    (r"\operatorname{sin}x", r"\sin x"), (r"\emptyset", r"\varnothing"), (r"x \leqslant 4", r"x \le 4"),
    ("x ≥ 4", r"4 \le x"), (r"3\cdot x", "3x"), (r"3 \times x", "3x"), ("3*x", "3x"), (r"5\;", "5"), (r"~5", "5"),
    (r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", r"\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix}"),
    (r"\left[\begin{array}{cc}1&2\\3&4\end{array}\right]", r"\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix}"),
    (r"\text{(2,3)}", "(2,3)"), (r"\text{east}", "East"), (r"\text{No Solution}", "no solution"),
    (r"36^\circ", r"36^{\circ}"), ("36°", r"36^\circ"), (r"\\frac{5}{6}", r"\frac{5}{6}"), (r"3 \colon 4", "3:4"),
]  # fmt: skip

# --- units and percent

UNITS: list[Pair] = [
    (r"7 \text{ cm}", "7"), ("7 cm", "7cm"), (r"7\text{ centimeters}", "7 cm"), (r"90^\circ", "90"),
    ("90 degrees", r"90^\circ"), (r"15\text{ m}^2", "15 m^2"), ("20 square feet", r"20 \text{ ft}^2"),
    (r"10 \text{ m/s}", "10 m/s"), (r"10 \text{ mph}", "10"), ("60 miles per hour", "60"), ("4 hours", "4 hrs"),
    (r"3\frac{1}{2} \text{ hours}", "3.5"), (r"2\pi \text{ cm}", r"2\pi"), ("150 pages", "150"), ("12 people", "12"),
    (r"\frac{1}{4} \text{ mile}", "0.25"), (r"5\text{ m}", "5"), ("8 kg", r"8\text{ kilograms}"), ("3 in.", r"3 \text{ inches}"),
    ("4:30 p.m.", r"4:30 \text{ pm}"), ("6 am", r"6\text{ a.m.}"), (r"864 \mbox{ inches}^3", "864 cubic inches"),
    (r"50\%", "0.5"), (r"50\%", "50"), (r"5\%", "5 percent"), ("12.5%", "1/8"), (r"\frac{1}{4}", r"25\%"),
    ("about 3.5", "3.5"), ("5 sq. units", "5"), (r"20^\circ\text{C}", "20"), (r"2\pi \text{ rad}", r"2\pi"), ("6.02 x 10^23", "6.02e23"),
    ("20 pct", r"20\%"), (r"\frac{100}{3}\%", r"\frac{1}{3}"), ("20", "20 percentage"),
]  # fmt: skip

DIFFERENT_UNITS: list[Pair] = [
    ("7 cm", "7 m"), ("5 m^2", "5 m"), (r"5 \text{ m}", r"5\text{ m/s}"), ("2 hours", "2 minutes"),
    (r"5\text{ km}", r"5000 \text{ m}"), (r"\$5", "5 cents"), ("5 apples", "5 oranges"), (r"30^\circ", r"30 \text{ cm}"),
    ("7:30 am", "7:30 pm"), ("3 cm", "4 cm"), (r"10\%", r"10 \text{ dollars}"), ("4t", "4"), ("3 n", "3"), ("5 m", "5"), ("$2 s$", "2"), ("5x", "5"), ("3i", "3"),
    ("50", "0.5"), ("0.5", "50"), ("50%", "0.5%"), ("50%", "5"), ("50%", "5000"), ("1", "100"), ("1", "0.01"),
    (r"5\%", r"5.5\%"), (r"0.05\%", "5"), ("2.50", "250"), ("100", "1"), ("8", r"0.08\%"), ("12", "1200"),
]  # fmt: skip

# --- numbers

EQUAL_NUMBERS: list[Pair] = [
    ("1/2", "0.5"), (r"\frac{-3}{4}", r"-\frac{3}{4}"), (r"\frac{-1}{-2}", "0.5"), (r"1\frac12", "3/2"), ("1 1/2", "1.5"),
    (r"2\frac{3}{8}", "2.375"), (r"-1\frac{1}{4}", "-1.25"), ("1.5e3", "1500"), (r"1.5 \times 10^{3}", "1500"),
    (r"3.2\cdot10^{-2}", "0.032"), ("10^{-3}", "0.001"), ("2.5E+2", "250"), (r"0.\overline{3}", "1/3"),
    (r"0.1\overline{6}", "1/6"), ("5!", "120"), ("2^{10}", "1024"), (r"2^{-1}", r"\frac{1}{2}"), (r"\sqrt{49}", "7"),
    (r"\sqrt[3]{8}", "2"), (r"\sqrt[3]{-27}", "-3"), ("8^{1/3}", "2"), (r"\binom{6}{2}", "15"), (r"\lfloor 2.5 \rfloor", "2"),
    (r"\lceil 2.5 \rceil", "3"), ("|{-3}|", "3"), (r"\log_2 8", "3"), (r"\log_{10} 1000", "3"), (r"\ln e^2", "2"),
    (r"\sin 30^\circ", r"\frac12"), (r"\cos\pi", "-1"), (r"\arctan 1", r"\frac{\pi}{4}"), (r"\tan^{-1} 1", r"\pi/4"),
    (r"i^2", "-1"), (r"(1+i)(1-i)", "2"), ("6/4", "3/2"), ("3(4+5)", "27"), ("1000000", "10^6"), (r"\frac{1}{\frac{1}{3}}", "3"),
    ("1011_2", "1011_{2}"), (r"2A_{16}", "2a_{16}"), (r"(10)_{3}", "10_3"), ("12:30", "12 : 30"), ("3:4", r"3\!:\!4"),
]  # fmt: skip

DIFFERENT_NUMBERS: list[Pair] = [
    ("17", "71"), ("1", "-1"), ("1/2", "2"), ("1 1/2", "11/2"), (r"1\frac12", "1/2"), ("1,000", "1.000"), ("1.5", "15"),
    (r"\frac{1}{3}", "0.333"), (r"\frac{2}{3}", "0.667"), (r"\pi", "3.14"), (r"\pi", r"\frac{22}{7}"), (r"\sqrt{2}", "1.414"),
    ("e", "2.718"), ("10^{100}", "10^{100}+1"), (r"\pi 10^{50}+1", r"\pi 10^{50}"), (r"\pi+10^{-60}", r"\pi"),
    (r"2\sqrt{5}", r"5\sqrt{2}"), ("0", "-0.001"), ("1e5", "1e6"), ("3", "3!"), ("6", "3!+1"), ("2^{10^9}", "2^{10^9}+1"),
    ("100!", "99!"), ("0.1", "0.10000000000000000001"), ("1011_2", "1011_3"), ("1011_2", "11"), ("10", "010_2"),
    ("204_5", "204"), (r"\ln 2", r"\ln 3"), ("i", "1"), ("1+i", "1-i"), ("3:4", "4:3"), ("11:00", "1:10"), ("8:05", "8:50"),
    (r"0.1\overline{6}", "0.16"), ("100,200", "200,100"), ("4", r"4\sqrt{2}"), (r"-\frac12", r"\frac12"), ("9", "9.0001"),
    ("5040", "7!+1"), (r"\sqrt{16}", "-4"), (r"\frac{355}{113}", r"\pi"), ("12", "twelve"), ("2", "two"),
]  # fmt: skip

# --- structure

EQUAL_STRUCTURES: list[Pair] = [
    ("(1,2)", r"(\frac{2}{2}, \sqrt{4})"), ("(1,2),(3,4)", "(3,4),(1,2)"), (r"(1,2) \text{ and } (3,4)", "(3,4), (1,2)"),
    ("(0;1;2)", "(0,1,2)"), ("(p,q) = (2,5)", "(2,5)"), ("x = 5", "5"), ("k=1/3", r"\frac13"), ("f(x) = 3x+1", "3x+1"),
    ("f(x) = 3x+1", "y = 3x + 1"), ("a_n = n^2", "n^2"), (r"\angle ABC = 40^\circ", "40"), ("|AB| = 3", "3"), ("MN=8", "8"),
    (r"\frac{AB}{CD} = 2", "2"), ("x=3, y=4", "y=4, x=3"), ("x=3,y=4", "3,4"), ("n = 2, 3, 5", "2, 3, 5"), ("x = 1+2 = 3", "3"),
    (r"x=3 \text{ or } x=4", "3, 4"), (r"\pm 2", "2,-2"), (r"x=\pm 2", "-2, 2"), (r"1\pm\sqrt{3}", r"1-\sqrt3, 1+\sqrt3"),
    (r"\{1\pm\sqrt{5},-2\}", r"\{-2, 1+\sqrt5, 1-\sqrt5\}"), (r"\sqrt{5} \approx 2.236", r"\sqrt5"), (r"x \approx 7", "7"),
    (r"(-\infty,2)\cup(3,\infty)", r"(3,\infty)\cup(-\infty,2)"), (r"x < 2 \text{ or } x > 3", r"(-\infty,2)\cup(3,\infty)"),
    (r"x\in[1,2)", r"1 \le x < 2"), ("1<x<2", "(1,2)"), ("x>7", r"(7,\infty)"), ("-x < -7", "x > 7"), ("2x > 14", "x>7"),
    (r"|x| \le 3", "[-3,3]"), (r"\{x \mid x > 7\}", r"(7, \infty)"), (r"x \neq 3", r"(-\infty,3)\cup(3,\infty)"),
    (r"\mathbb{R}\setminus\{3\}", r"x\ne 3"), (r"\mathbb{R}", r"(-\infty,\infty)"), (r"\{\}", r"\emptyset"),
    (r"[1,2]\cup\{5\}", r"\{5\}\cup[1,2]"), ("2x+4y=6", "x+2y=3"), ("y=3-x", "x+y=3"), ("x^2+y^2-9=0", "x^2+y^2=9"),
    ("y = 2x", r"x = \frac{y}{2}"), (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"), (r"\{4\}", "4"), ("2,2,3", "3,2,2"),
    (r"\begin{pmatrix}1/2\\2\end{pmatrix}", r"\begin{pmatrix}0.5\\\sqrt4\end{pmatrix}"), ("(B)", "B"), (r"\text{(B)}", "B"),
    (r"\textbf{(B)}\ 12", "B"), ("B. 12", "B"), ("(B) 12", "12"), ("C) the dog", r"\text{C}"), ("1,000, 2,000", "2000, 1000"),
    (r"\left\{\begin{array}{l}x=1\\y=2\end{array}\right.", "x=1, y=2"), (r"\begin{cases}x=1\\y=2\end{cases}", "y=2,x=1"),
    (r"2\mathbf{i}+3\mathbf{j}", r"3\mathbf{j}+2\mathbf{i}"), (r"\mathbb{R} \setminus \{4\}", r"(-\infty,4)\cup(4,\infty)"),
    (r"f^{-1}(x)=\frac{x-3}{2}", r"\frac{x-3}{2}"), ("x^2+1=y", "y=x^2+1"), ("a=1, b=2, c=3", "(1,2,3)"), ("x+y+z=0", "z=-x-y"),
    ("5 = x", "5"), ("{x|x>1}", r"(1,\infty)"), (r"(-\infty,-1) \text{ or } (1,\infty)", r"(-\infty,-1)\cup(1,\infty)"),
    (r"\text{all real numbers}", r"\mathbb{R}"), ("infinity", r"\infty"), ("Option C", "C"), (r"\text{Choice (C)}", "C"), ("5th", "5"),
    (r"\frac{7}{3} \text{ or } 2\frac{1}{3}", "7/3"), ("f(1) < f(2)", "f(2) > f(1)"), (r"\{(1,2),(2,1)\}", "(2,1),(1,2)"),
]  # fmt: skip

DIFFERENT_STRUCTURES: list[Pair] = [
    ("(0,1)", "[0,1]"), ("(0,1]", "[0,1)"), ("[0,1)", "(0,1)"), ("[1,2]", "(1,2)"), ("(1,2)", "(2,1)"), ("(1,2,3)", "(3,2,1)"),
    ("(1,2),(3,4)", "(2,1),(3,4)"), ("(1,2),(3,4)", "(1,2)"), ("(1,2)", "1"), ("5", "5,6"), (r"\{1,2\}", r"\{1,2,3\}"),
    ("1,1,2", "1,2,2"), ("1,2", "1,3"), ("[2,1]", "1,2"), ("x=1", "x=2"), ("x=1", "y=1"), ("x=1,y=2", "x=2,y=1"), ("x=1,y=2", "2,1"),
    ("x>5", "x<5"), ("x>5", r"x\ge 5"), (r"x\ge5", r"(5,\infty)"), (r"x<2 \text{ or } x>3", "(2,3)"), ("x>5", "y>5"), ("x>5", "5"),
    ("c^2 + d = 0", "0"), ("2x=10", "10"), ("x^2=4", "4"), ("3x+y=0", "0"), ("2x+4y=6", "x+2y=4"), ("y=x+1", "x+2"), ("f(x)=x", "f(x)=2x"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
    (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"), (r"\infty", r"-\infty"),
    (r"(-\infty,2)", r"(2,\infty)"), (r"(1,2)\cup(3,4)", r"(1,2)\cap(3,4)"), (r"(1,2)\cup(3,4)", "(1,4)"), (r"\{0\}", r"\emptyset"),
    (r"\emptyset", "0"), (r"3\pm2", r"3\pm 1"), (r"\pm 2", "2"), (r"x\in(1,2)", r"x\in[1,2]"), (r"|x|<3", r"|x|\le 3"),
    ("A", "B"), ("(A)", "(B)"), ("(B) 12", "C"), (r"\text{odd}", r"\text{even}"), (r"\text{no}", r"\text{yes}"), ("x", "y"),
    (r"\overline{AB}", r"\overline{CD}"), (r"\vec{a}", "a"), ("x_1", "x_2"), ("1:2:3", "3:2:1"), ("(1,2)", r"\{1,2\}x"), ("", "1"),
    ("x^2-7x+10=0", "x^2+7x+10=0"), ("f(0)", "0"), ("f(2)", "2f"), (r"x=-3 \text{ or } x=3", "(-3,3)"), (r"x^2\le 4", "(-2,2)"), ("6 = x", "5"),
    ("x^2<4", "(-2,2)"), ("x^2-5x+6>0", r"(-\infty,2)\cup(3,\infty)"), ("x^2-4=0", "2,-2"), ("x^2+1=0", "x^2+2=0"),
    (r"(-\infty,2)\cup(3,\infty)", r"[-\infty,2)\cup(3,\infty)"), (r"\log_6 216 = 3", r"\log_3 27 = 3"), ("x=1, x=2", "(1,2)"),
    (r"e^x > 1", "x < 0"), (r"\sin x > 0", "x > 0"), ("Option C", "D"),
]  # fmt: skip

# --- expressions

EQUAL_EXPRESSIONS: list[Pair] = [
    ("x^2+2x+1", "(x+1)^2"), ("(a-b)(a+b)", "a^2-b^2"), (r"\frac{x}{2}+\frac{x}{3}", r"\frac{5x}{6}"), (r"\sqrt{12}", r"2\sqrt 3"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"), (r"\frac{1}{\sqrt3-1}", r"\frac{\sqrt3+1}{2}"), (r"2\cos^2 x - 1", r"\cos 2x"),
    (r"\sin^2\theta+\cos^2\theta", "1"), (r"\ln(ab)", r"\ln a+\ln b"), (r"e^{x+y}", "e^x e^y"), (r"\frac{n(n+1)}{2}", "(n^2+n)/2"),
    (r"\frac{n!}{(n-1)!}", "n"), (r"\sqrt{x}", "x^{1/2}"), (r"\sqrt[3]{x^2}", "x^{2/3}"), (r"\frac{a}{b}+c", "c+a/b"),
    (r"3\pi/4", r"\frac{3}{4} \pi"), ("1/2x", r"\frac{x}{2}"), (r"\binom{n}{2}", r"\frac{n(n-1)}{2}"), (r"\tan x", r"\frac{\sin x}{\cos x}"),
    (r"\log_2 x", r"\frac{\ln x}{\ln 2}"), ("2^{n+1}", r"2\cdot 2^n"), (r"|x-1|", "|1-x|"), ("3-2i", "-2i+3"), (r"e^{i\pi}", "-1"),
    (r"\cosh x", r"\frac{e^x+e^{-x}}{2}"), (r"-\frac{x-1}{2}", r"\frac{1-x}{2}"), (r"x^{-2}", r"\frac{1}{x^2}"), (r"2\alpha\beta", r"\beta\cdot2\alpha"),
    (r"\frac{m v_{0}^{2}}{2}", r"\frac12 m v_0^2"), ("abc", "cab"), (r"\sqrt{3+2\sqrt2}", r"1+\sqrt{2}"), (r"10^{\frac{1}{2}}", r"\sqrt{10}"),
]  # fmt: skip

DIFFERENT_EXPRESSIONS: list[Pair] = [
    ("x", "-x"), (r"\sin x", r"\cos x"), (r"\sqrt{x}", "x"), (r"\sqrt[3]{x}", r"\sqrt{x}"), ("x^2", "x^3"), ("2x", "x^2"),
    (r"\frac{x}{y}", r"\frac{y}{x}"), ("|x|", "x"), (r"\sqrt{x^2}", "x"), ("ab", "a+b"), ("n!", "(n-1)!"), ("x+1", "x+2"),
    ("(x+1)^2", "x^2+1"), (r"\frac{x+1}{2}", r"x+\frac12"), ("e^{x}", "e^{-x}"), (r"\ln x^2", r"(\ln x)^2"), (r"\sin x^2", r"\sin^2 x"),
    (r"\sqrt{a+b}", r"\sqrt a+\sqrt b"), ("(a+b+c+d-e)^{20}", "(a+b+c+d+e)^{20}"), ("2^n", "n^2"), (r"\binom{n}{2}", r"\binom{n}{3}"),
    ("x^2+10^{-9}", "x^2"), ("3+2i", "3-2i"), (r"\frac{1}{1+\pi}", r"1+\frac{1}{\pi}"),
]  # fmt: skip

# --- what only computer algebra reads

EQUAL_SYMBOLIC: list[Pair] = [
    (r"\sum_{k=1}^{10} k", "55"), (r"\int_0^1 x^2 dx", r"\frac13"), (r"\lim_{x\to 0} \frac{\sin x}{x}", "1"),
    (r"\begin{pmatrix}3 \\ 6\end{pmatrix}", r"3\begin{pmatrix}1 \\ 2\end{pmatrix}"),
    (r"\begin{pmatrix}2&0\\0&2\end{pmatrix}", r"\begin{pmatrix}1&0\\0&1\end{pmatrix}+\begin{pmatrix}1&0\\0&1\end{pmatrix}"),
]  # fmt: skip
DIFFERENT_SYMBOLIC: list[Pair] = [
    (r"\sum_{k=1}^{10} k", "56"), (r"\int_0^1 x^2 dx", r"\frac12"), (r"\int_0^1 x^2 dx + ", "1"),
]  # fmt: skip

EQUAL = [*SPELLINGS, *UNITS, *EQUAL_NUMBERS, *EQUAL_STRUCTURES, *EQUAL_EXPRESSIONS, *EQUAL_SYMBOLIC]
DIFFERENT = [
    *DIFFERENT_UNITS,
    *DIFFERENT_NUMBERS,
    *DIFFERENT_STRUCTURES,
    *DIFFERENT_EXPRESSIONS,
    *DIFFERENT_SYMBOLIC,
]

# --- whole responses: (response, ground truth, is it correct)

RESPONSES: list[tuple[str, str, bool]] = [
    (r"So \boxed{42}. My answer stands in \boxed{}.", "42", True),
    (r"We add: $2+3=5$. So the answer is $\boxed{5}$.", "5", True),
    (r"First $\boxed{4}$ seemed right, but it is $\boxed{5}$.", "5", True),
    (r"First $\boxed{5}$ seemed right, but it is $\boxed{4}$.", "5", False),
    (r"Hence \boxed{\frac{1}{2}} of the pie.", "0.5", True),
    (r"Hence \boxed{\boxed{7}}.", "7", True),
    (r"So the set is \boxed{\{1, 2\}}.", r"\{2,1\}", True),
    (r"So $x=\boxed{3}$ and $y=\boxed{4}$.", "4", True),
    (r"The roots are \boxed{3} and \boxed{4}.", "3,4", True),
    (r"The roots are $\boxed{3}$, $\boxed{4}$.", "4,3", True),
    (r"So it is \boxed{12 \text{ cm}}.", "12", True),
    (r"So it is \boxed{12", "12", True),
    ("Step 1: 2+2.\nAnswer: 4", "4", True),
    ("Step 1: 2+2.\nAnswer: $4$", "4", True),
    ("**Answer:** 4", "4", True),
    ("**Final Answer:** 4 apples", "4", True),
    ("Answer: 4\nWait.\nAnswer: 5", "5", True),
    ("Answer: 4\nWait.\nAnswer: 5", "4", False),
    ("He has 3+4=<<3+4=7>>7 apples.\n#### 7", "7", True),
    ("He has 1,000 apples.\n#### 1,000", "1000", True),
    ("He has 3+4=<<3+4=7>>7 apples.\n#### 8", "7", False),
    ("The answer is 7.", "7", True),
    ("The answer is: 7", "7", True),
    ("So the final answer is $\\frac{3}{4}$. I hope it helps.", "0.75", True),
    ("The final answer is (1, 2).", "(1,2)", True),
    ("The final answer is (1, 2).", "(2,1)", False),
    ("The answer is 1,250 dollars.", "1250", True),
    ("The answer is therefore $x^2$", "x^2", True),
    ("A: 42", "42", True),
    ("A: 4200", "42", False),
    (r"\boxed{7} is it. The answer is 8.", "8", True),
    ("<think>maybe \\boxed{3}</think>It is \\boxed{4}.", "4", True),
    ("<think>maybe \\boxed{3}</think>It is \\boxed{4}.", "3", False),
    ("It is \\boxed{4}.<|im_end|>\n<|im_start|>user\n\\boxed{5}", "4", True),
    ("so there are 15 of them", "15", True),
    ("so there are 15 of them", "5", False),
    ("the total is $12.50", "12.5", True),
    (r"we find $x > 5$ as the solution", "x>5", True),
    (r"thus $P = 30\%$ of all", "0.3", True),
    (r"which is \boxed{\text{(C)}}.", "C", True),
    (r"which is \boxed{\textbf{(C) } 12}.", "C", True),
    (r"which is \boxed{C}.", "D", False),
    (r"It is \boxed{}.", "5", False),
    ("", "5", False),
    ("I do not know.", "5", False),
    (r"Answer: 2^{25} \cdot 26!", r"2^{25} \cdot 26!", True),
    (r"#### 2^{25} \cdot 26!", r"2^{25} \cdot 26!", True),
    (r"#### 2^{25} \cdot 26!", r"2^{25} \cdot 26", False),
    (r"The answer is 42!", "42", True),
    (r"It is \boxed{10}.", "1", False),
    (r"It is \boxed{5 or 6}.", "5", False),
    (r"It is \boxed{5, 6, 7, 8}.", "5", False),
    (r"Therefore, \(\boxed{[-2, 7)}\).", "[-2,7)", True),
    (r"Therefore, \(\boxed{[-2, 7]}\).", "[-2,7)", False),
]  # fmt: skip

# --- inputs that mean harm; {MARKER} is a file that must not come to be

HOSTILE: list[Pair] = [
    (r"__import__('os').system('touch {MARKER}')", "1"),
    (r"\text{__import__('os').system('touch {MARKER}')}", "1"),
    (r"\variable{__import__('os').system('touch {MARKER}')}", "1"),
    (r"\operatorname{__import__}('os').system('touch {MARKER}')", "1"),
    (r"exec(\"open('{MARKER}','w')\")", "1"),
    (r"\sum_{k=1}^{open('{MARKER}','w')} k", "1"),
    (r"\begin{pmatrix}__import__('pathlib').Path('{MARKER}').touch()\end{pmatrix}", r"\begin{pmatrix}1\end{pmatrix}"),
    (r"\int_0^1 eval('open(\"{MARKER}\",\"w\")') dx", "1"),
    (r"lambda: open('{MARKER}', 'w')", "1"),
    (r"x = 3; \sum_{k=1}^{x} k", "6"),
    ("720!", "n!"), (r"\binom{1500}{700}", r"\binom{n}{k}"),
    ("9^{9^{9^{9}}}", "1"), ("2^{10000000000}", "1"), ("((99!)!)!", "1"), ("1e999999999", "1"), ("10000000!", "1"),
    (r"\prod_{k=1}^{100000000} k", "1"), (r"\sum_{k=1}^{100000000} \frac{1}{k^2+1}", "1"), (r"\binom{10^9}{5\cdot10^8}", "1"),
    (r"\int_0^1 \sin(\tan(\cos(\exp(x^9+x^7)))) dx", "1"), (r"\lim_{n\to\infty} \sum_{k=1}^{n} \frac{\sin k}{k^3}", "1"),
    ("(" * 3000 + "x" + ")" * 3000, "1"), ("{" * 50000, "1"), (r"\frac" * 5000, "1"), (r"\sqrt" * 3000 + "2", "1"),
    (r"\boxed{" * 3000, "1"), ("$" * 50001, "1"), ("1," * 30000, "1"), ("=" * 50000, "1"), ("-" * 3999 + "1", "2"),
    ("7" * 100000, "1"), ("0." + "3" * 100000, "1/3"), ("x+" * 1990 + "x", "1990x"), (" " * 100000, "1"), ("\\" * 4001, "1"),
    (r"\sin(" * 1000 + "x" + ")" * 1000, "x"), ("x^{" * 1000 + "x" + "}" * 1000, "x"), ("|" * 3999, "1"), ("\x00", "1"), ("\ud800", "1"),
    (r"\begin{pmatrix}" * 200, "1"), ("(1," * 1000, "1"), ("a" * 3999, "b"), ("\U0001f600" * 100, "1"), ("²" * 3999, "1"),
    (r"\pm" * 1000 + "1", "1"), (r"1 \pm 1" * 30, "1"), (r"\text{" * 1000, "1"), ("_{" * 1500, "1"), ("٣", "3"), ("\u202e12", "21"),
]  # fmt: skip
