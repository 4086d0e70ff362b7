r"""Answers and how they are written: (ground truth, spellings that are equal to it, answers that are not).

Each is asked in both directions, as an answer and inside the box of a response.
"""

# ruff: noqa: E501  (a table reads across; look-alike signs are the point)

from __future__ import annotations

ANSWERS: list[tuple[str, list[str], list[str]]] = [
    ("1250", [
        "1,250", "1250.0", "1250.", "$1,250", r"\$1{,}250", r"1\,250", r"1\;250", "1 250", "1~250", "1.25e3", r"1.25\times10^3",
        r"1.25 \cdot 10^{3}", "1.25 x 10^3", "1.25*10^3", r"\text{1250}", r"\mathbf{1250}", r"\mathrm{1250}", "**1250**", "$$1250$$", r"\(1250\)",
        r"\[1250\]", "`1250`", "1250 apples", "1,250 dollars", "$1250.00", "USD 1250", "1250 USD", "+1250", r"1\!250", r"1,\!250", "{1250}",
        r"\left(1250\right)", r"\large 1250", "１２５０", r"\boxed{1250}", r"\fbox{1250}", r"\displaystyle 1250", r"\textstyle 1250", "1250", "  1250  ",
        r"1250\\", "1250;", "1250,", "= 1250", "x = 1250", "N=1250", r"\underline{1250}", r"\color{red}1250", r"{\color{blue}1250}",
        r"\textcolor{red}{1250}", "€1250", "£1,250", "1250€"
    ], [
        "1,25", "12,50", "125", "12500", "1.250", "1250,1", "1251", "-1250", "1250x", "1250^2", "1/1250", "12.50", "1249.99", "1250 1", "0x1250",
        "1250_8", r"\sqrt{1250}", "|1251|", "1250i", "125 0 0"
    ]),
    ("-3", [
        "−3", "–3", r"-\!3", "- 3", r"\text{-3}", "-3.0", "(-3)", "−3.00", "﹣3", "－3", "-3", "-3.", "{-3}", "-{3}", "x=-3", "x = -3."
    ], [
        "3", "+3", "-3i", "--3", "1/-3"
    ]),
    (r"\frac{1}{2}", [
        "1/2", "0.5", ".5", r"\dfrac{1}{2}", r"\tfrac12", r"\frac12", r"\frac 12", r"\frac{1}2", r"\frac1{2}", r"{1 \over 2}", r"1 \over 2", "1⁄2",
        "½", "2/4", r"\cfrac{1}{2}", r"50\%", "50%", r"\left(\frac{1}{2}\right)", "2^{-1}", r"\frac{-1}{-2}", r"\frac{0.5}{1}", "0.50", "1 / 2",
        r"1\!/\!2", r"\sfrac{1}{2}", r"\nicefrac{1}{2}", r"\frac{\frac{1}{2}}{1}", r"\frac{2}{2\cdot 2}", "1:2", r"\text{1/2}",
        r"\frac{\sqrt{4}}{4}", r"\sin 30^\circ", r"\sin\frac{\pi}{6}", r"\cos(\pi/3)", r"\frac{\text{1}}{\text{2}}", r"\frac{1}{2}\text{ mile}"
    ], [
        "2", "1,2", "12", "0.05", "5", r"\frac{2}{1}", "-1/2", "0.51", "0.49999", "1/3", "1.2", "2:1", "1 2"
    ]),
    (r"1\frac{1}{2}", [
        "1.5", "3/2", "1 1/2", r"\frac{3}{2}", "1½", "1 ½", r"1\ \frac12", r"1\,\frac{1}{2}", "1~1/2", "1.50", r"1 \tfrac{1}{2}", "1+1/2", "15/10",
        "150%"
    ], [
        "1/2", "11/2", "2/3", "1.2", "1,1/2", "0.5"
    ]),
    (r"-2\frac{1}{3}", [
        "-7/3", "-2 1/3", r"-\frac{7}{3}", r"\frac{-7}{3}", r"\frac{7}{-3}"
    ], [
        "-5/3", "7/3", "-2/3", "-2.33"
    ]),
    (r"\frac{1}{3}", [
        r"0.\overline{3}", r"0.3\overline{3}", r"0.\dot{3}", r"0.\bar{3}", r".\overline{3}", r"33\frac{1}{3}\%", "2/6", "3^{-1}"
    ], [
        "0.3", "0.33", "0.3333", "0.333333333333", "33%", "33.3%", "0.34"
    ]),
    (r"0.\overline{142857}", [
        "1/7", r"\frac17", r"0.\overline{142857142857}"
    ], [
    ]),
    (r"0.1\overline{6}", [
        "1/6", r"0.1\bar{6}", r"0.1\dot 6"
    ], [
    ]),
    ("4.5e33", [
        r"4.5\times10^{33}", r"4.5 \times 10^{33} \text{ erg/s}", r"4.5\cdot 10^{33}", "4.5E33", "4.5*10^33", "45e32",
        r"4.5\times 10^{33}\,\mathrm{erg}", "4.5e+33", r"45 \times 10^{32}"
    ], [
        "4.5", "4.5e32", "4.5e34", "4.5e-33", r"4.5\times10^{3}3", "33", r"4.6\times10^{33}"
    ]),
    ("10^{11}", [
        "1e11", "10^11", "100000000000", "100,000,000,000", r"1\times10^{11}", "10**11", r"10^{11} \text{ Hz}"
    ], [
        "10^{12}", "11^{10}", "110", "1011"
    ]),
    ("6.02e-5", [
        r"6.02\times10^{-5}", "0.0000602", r"6.02\cdot10^{−5}", "6.02E-05", r"60.2\times10^{-6}"
    ], [
        "6.02e5", "6.02", "6.2e-5"
    ]),
    ("1e5", [
        "100000", "100,000", "10^5"
    ], [
    ]),
    (r"20\%", [
        "20%", "0.2", "20", r"20 \%", "20 percent", r"20\text{ percent}", "1/5", "20.0%", r"20\text{\%}", r"$20\%$"
    ], [
        "2000", "2", "0.02", "0.002", "200%", "21%", "80%"
    ]),
    ("20", [
        "20%"
    ], [
        "0.2", "2000", "0.20"
    ]),
    ("0.2", [
        "20%"
    ], [
        "20", "2%", "200%"
    ]),
    (r"\$18.90", [
        "18.90", "18.9", "$18.90", "18.90 dollars", r"\$18.9", "USD 18.90", r"18.90\text{ dollars}", "18.90 USD"
    ], [
        "1890", "18.09", "18", "1,890"
    ]),
    ("1,234,567.89", [
        "1234567.89", "1{,}234{,}567.89", r"1\,234\,567.89", "1 234 567.89", "1'234'567.89", "1234567.890"
    ], [
    ]),
    ("023", [
        "23", "23.0"
    ], [
        "32", "2.3", "230"
    ]),
    ("0", [
        "-0", "0.0", "+0", "0/5", r"\frac{0}{7}", "0", r"0^\circ", "0%"
    ], [
        "1", r"\emptyset", "undefined", "none", "O"
    ]),
    ("42", [
        "42", "42 (forty-two)", "42 people", "42nd", r"42^{\text{nd}}", "The answer is 42", "exactly 42", r"\text{There are } 42",
        r"42 \text{ ways}", r"42 \text{ square units}", "n = 42.", r"42\text{.}", "42 different ways"
    ], [
        "42 and 43", "24", "4.2", "4 2", "42 or 24", "420", "42/7", "42x"
    ]),
    ("5", [
        r"\sqrt{25}", "|-5|", r"\lfloor 5.7 \rfloor", r"\lceil 4.2\rceil", "10/2", "2+3", "5!/(4!)", r"\binom{5}{1}", r"\dbinom{5}{4}",
        r"{5 \choose 1}", r"\log_2 32", r"\lg 100000", r"\ln e^5", "5^1", r"3\cdot 2 - 1", r"3\times 2-1", "2*2+1", r"\gcd(10,15)", "C(5,1)",
        "_5C_1", "5", r"\max(3,5)", r"\min\{5,7\}", r"\left|{-5}\right|", r"\lvert -5 \rvert", r"17 \bmod 12", r"\sqrt[3]{125}", "125^{1/3}",
        r"\lfloor 5 \rfloor"
    ], [
        r"\sqrt{5}", "-5", "5!", r"5\pi", "5x", r"5\sqrt2", r"\lfloor 4.7 \rfloor", r"\lceil 5.1 \rceil", "6", "55"
    ]),
    (r"45^\circ", [
        "45", "45°", "45 degrees", r"45\text{ degrees}", r"45^{\circ}", r"45 ^ \circ", r"45\degree", "45º", "45 deg", r"45{}^{\circ}",
        r"45^{\circ }", r"x=45^\circ", r"\theta = 45°", r"\angle ABC = 45^\circ", r"m\angle A=45^{\circ}", r"45\,^\circ", r"\text{45 degrees}",
        r"45^\circ."
    ], [
        "54", "135", r"45\pi", "4.5", r"-45^\circ", r"44^\circ"
    ]),
    (r"15 \text{ cm}^2", [
        "15", r"15\text{ cm}^{2}", "15 cm^2", "15 cm²", r"15\mathrm{cm}^2", r"15~\mathrm{cm^2}", r"15\,\text{cm}^2", "15 square centimeters",
        "15 sq cm", r"15 \text{ square cm}", r"15\ \mathrm{cm}^{2}", r"15\; \textrm{cm}^2"
    ], [
        r"15 \text{ cm}", r"15 \text{ m}^2", "16", "15 cm^3", "152", "30", "15x"
    ]),
    ("30 mph", [
        "30", "30 miles per hour", r"30 \text{ mph}", r"30\text{ miles/hour}", r"30\ \text{mi/h}", "30 miles/h"
    ], [
        "30 km/h", "30 kph", "31", "30 m/s", "30 hours"
    ]),
    ("2 hours", [
        "2", "2 hrs", "2 hr", "2 h", r"2\text{ hours}", r"2 \text{ h}"
    ], [
        "2 minutes", "3", "2 days", "2 min"
    ]),
    ("9.8 m/s^2", [
        "9.8", r"9.8 \text{ m/s}^2", r"9.8\ \mathrm{m/s^2}", r"9.8\,\mathrm{m\,s^{-2}}", r"9.8 \mathrm{~m} / \mathrm{s}^{2}",
        r"9.8\ \frac{\text{m}}{\text{s}^2}", "9.8 m/s²"
    ], [
        "9.8 m/s", "9.8 km/s^2", "8.9"
    ]),
    ("12 inches", [
        "12", "12 in", "12 in.", '12"', r"12\text{ in}", r"12 \text{ inches}", "12''"
    ], [
        "12 ft", "12 cm"
    ]),
    (r"3 \text{ feet}", [
        "3", "3 ft", "3 foot", "3'", r"3\text{ ft.}"
    ], [
    ]),
    ("7 units", [
        "7", r"7\text{ units}"
    ], [
    ]),
    (r"36 \text{ square units}", [
        "36", "36 units^2", r"36\ \text{units}^2"
    ], [
    ]),
    ("5 kg", [
        "5", "5 kilograms", r"5\,\text{kg}", r"5\ \mathrm{kg}", "5kg"
    ], [
        "5 g", "5 lb", "5 km", "0.5 kg", "6 kg"
    ]),
    ("20 °C", [
        "20", r"20^\circ\text{C}", "20 degrees Celsius", r"20^{\circ} \mathrm{C}"
    ], [
        "20 °F", r"20^\circ F", r"20^\circ\text{F}"
    ]),
    (r"15 \text{ minutes}", [
        "15 min", "15 mins", "15", "15 minutes"
    ], [
        "15 seconds", "15 s", "15 hours"
    ]),
    ("60 cents", [
        "60", r"60\text{ cents}", "60¢"
    ], [
        "60 dollars", r"\$60", "6"
    ]),
    (r"1 \text{ m}", [
        "1", "1 meter", "1 metre"
    ], [
    ]),
    ("1 m", [
    ], [
        "1 cm", "1 km", "1 mm"
    ]),
    (r"2\sqrt{3}", [
        r"2\sqrt3", r"\sqrt{12}", "2√3", "2*sqrt(3)", r"2 \cdot \sqrt{3}", r"\sqrt{3}\cdot 2", r"\frac{6}{\sqrt{3}}", r"2\cdot 3^{1/2}",
        r"2\times\sqrt{3}", r"2 \sqrt {3}", r"\sqrt{3} \times 2", r"\frac{2\sqrt{9}}{\sqrt3}", "2sqrt(3)", "2sqrt3", r"2\sqrt[2]{3}", "12^{0.5}",
        r"\sqrt{4}\sqrt{3}", r"\sqrt{4 \cdot 3}", r"2(3)^{\frac12}", "√12", r"2\sqrt{3}", r"2\sqrt{3}\text{ cm}"
    ], [
        r"3\sqrt{2}", r"\sqrt{6}", "3.46", "3.4641016151377", "23", r"-2\sqrt3", r"2\sqrt[3]{3}", r"\sqrt[3]{12}", "2*3", r"2\sqrt{13}", r"4\sqrt3"
    ]),
    (r"\sqrt[3]{4}", [
        "4^{1/3}", "2^{2/3}", r"\sqrt[3]4", r"\sqrt[3] {4}", r"\sqrt[{3}]{4}", r"4^{\frac{1}{3}}", "∛4"
    ], [
        r"3\sqrt{4}", "2", r"\sqrt[4]{3}", r"\sqrt{4}"
    ]),
    (r"\frac{\pi}{2}", [
        "pi/2", "π/2", r"\pi/2", r"0.5\pi", r"\frac12\pi", r"\frac{1}{2} \pi", r"\dfrac{\pi}{2}", r"\frac{3\pi}{6}", r"\frac {\pi} {2}",
        r"\frac{π}{2}", r"\arccos 0", r"\sin^{-1}(1)", r"\arcsin 1", r"\pi \over 2", r"\frac{\pi}{2} \text{ radians}", r"\frac{\pi}{2}\text{ rad}"
    ], [
        "1.57", "1.5707963", r"2\pi", r"\frac{2}{\pi}", r"\pi", r"\frac{p}{2}", "90", "3.14/2"
    ]),
    (r"9\pi", [
        r"9 \pi", "9π", "9pi", r"9\cdot\pi", r"\pi \cdot 9", "9*pi", r"9\pi \text{ cm}^2", r"9 \pi \mathrm{~cm}^{2}"
    ], [
        "9", "28.27", r"3\pi", r"9\pi^2", r"-9\pi"
    ]),
    (r"\frac{\sqrt{2}}{2}", [
        r"\frac{1}{\sqrt{2}}", r"\sqrt{\frac{1}{2}}", r"\sqrt{0.5}", r"\sqrt2/2", r"\frac{\sqrt2}2", "2^{-1/2}", r"\sin 45^\circ",
        r"\cos\frac{\pi}{4}", r"\tfrac{\sqrt{2}}{2}", r"\frac12\sqrt2", r"(\sqrt{2})/2", "sqrt(2)/2", r"\sqrt\frac12"
    ], [
        r"\sqrt{2}", "0.707", r"\frac{2}{\sqrt{2}}", r"-\frac{\sqrt{2}}{2}", r"\sqrt{\frac{2}{2}}"
    ]),
    (r"\frac{1+\sqrt{5}}{2}", [
        r"\frac{\sqrt{5}+1}{2}", r"\frac12+\frac{\sqrt5}{2}", "(1+√5)/2", r"\frac{1 + \sqrt5}2", r"0.5+\sqrt{1.25}", r"\frac{2}{\sqrt5-1}"
    ], [
        r"\frac{1-\sqrt{5}}{2}", r"1+\frac{\sqrt5}{2}", r"\frac{1+\sqrt5}{4}", "1.618"
    ]),
    (r"3-2\sqrt{2}", [
        r"(\sqrt{2}-1)^2", r"-2\sqrt2+3", r"\frac{1}{3+2\sqrt2}", r"3 - \sqrt{8}"
    ], [
        r"2\sqrt2-3", r"3+2\sqrt2", r"3-\sqrt2"
    ]),
    (r"\log_2 3", [
        r"\frac{\ln 3}{\ln 2}", r"\frac{\log 3}{\log 2}", r"\log_{2}{3}", r"\log_2(3)", r"\log_{2} 3", r"\log_4 9"
    ], [
        r"\log_3 2", "1.585", r"\ln 3", r"\frac{\ln 2}{\ln 3}"
    ]),
    (r"\ln 2", [
        r"\log_e 2", "ln(2)", r"\ln(2)", r"\ln{2}", r"-\ln\frac12", r"\frac12\ln 4", r"\ln|2|"
    ], [
        r"\ln 3", r"\ln^2 2", "0.693"
    ]),
    ("e^2", [
        "e^{2}", r"\exp(2)", r"\mathrm{e}^2", r"\text{e}^2", "exp(2)", r"e\cdot e", r"\exp{2}", r"\exp\left(2\right)"
    ], [
        "7.389", "2^e", "e2", "2e"
    ]),
    ("5!", [
        "120", r"5 \cdot 4 \cdot 3 \cdot 2", r"5\times4!", r"\frac{6!}{6}", r"\prod_{k=1}^5 k"
    ], [
        "5", "24", "720"
    ]),
    (r"\binom{10}{3}", [
        "120", r"\dbinom{10}{3}", r"\tbinom{10}3", r"{10\choose 3}", "C_{10}^{3}", r"\frac{10!}{3!7!}", "_{10}C_3", "{}_{10}C_{3}", "C(10,3)",
        r"\binom{10}{7}"
    ], [
        r"\binom{3}{10}", "10/3", r"\frac{10}{3}", "1000"
    ]),
    ("2^{10}", [
        "1024", "1,024", "2^10", "2**10", "4^5", "2¹⁰"
    ], [
        "210", "20", "2^11", "10^2"
    ]),
    ("3+4i", [
        "4i+3", "3 + 4i", "3+4 i", r"3+4\mathrm{i}", r"3+4\cdot i", "(3+4i)", "3+i4", r"3 + 4\,i", "3+4i", "z=3+4i", "(2+i)^2"
    ], [
        "3-4i", "4+3i", "-3-4i", "3+4", "7i", "5", "(3,4)"
    ]),
    ("-i", [
        "-1i", r"\frac{1}{i}", "i^3", "0-i"
    ], [
        "i", "-1", "1"
    ]),
    (r"\frac{1}{2}+\frac{\sqrt{3}}{2}i", [
        r"\frac{1+i\sqrt{3}}{2}", r"e^{i\pi/3}", r"\cos 60^\circ+i\sin 60^\circ", r"\frac{1+\sqrt{3}i}{2}", r"\frac12+\frac{i\sqrt3}2"
    ], [
        r"\frac{1}{2}-\frac{\sqrt{3}}{2}i", r"\frac{\sqrt3}{2}+\frac12 i"
    ]),
    ("(1,2)", [
        "(1, 2)", r"\left(1,2\right)", r"\left( 1 , 2 \right)", r"(1,\,2)", r"(1,\ 2)", "(1,2)", r"\bigl(1,2\bigr)", r"\big(1,2\big)",
        r"\Big(1, 2\Big)", "(1.0,2.0)", "(2/2, 4/2)", "$(1,2)$", "(x,y)=(1,2)", "(x, y) = (1, 2)", "(1,2).", "（1，2）", "( 1,2 )", "x=1, y=2",
        r"x=1 \text{ and } y=2", r"x = 1,\ y = 2", r"\langle 1,2\rangle", "1, 2", r"\begin{pmatrix}1\\2\end{pmatrix}", r"\left(1{,}2\right)",
        "(1,~2)", r"(1,\; 2)", "P(1,2)", "P = (1,2)", r"(1,\quad 2)"
    ], [
        "(2,1)", "[1,2]", "(1,2]", "[1,2)", "(1,3)", "(1,2,3)", "(-1,2)", "12", "1.2", "(12)", "3", "(1)", "2", r"\begin{pmatrix}2\\1\end{pmatrix}",
        "x=2,y=1"
    ]),
    ("(1,2,3)", [
        "(1, 2, 3)", r"\langle 1, 2, 3 \rangle", r"\begin{pmatrix} 1 \\ 2 \\ 3 \end{pmatrix}", r"\begin{bmatrix}1\\2\\3\end{bmatrix}", "<1,2,3>",
        "x=1,y=2,z=3", "(x,y,z)=(1,2,3)", "(1,2,3)"
    ], [
        "(1,3,2)", "(3,2,1)", "(1,2)", "(1,2,4)", "123", "(1,2,-3)"
    ]),
    (r"(-\infty, 3]", [
        r"(-\infty,3]", r"\left(-\infty,3\right]", "(-∞, 3]", "x ≤ 3", r"x \le 3", r"x\leq 3", r"x \leqslant 3", r"x\in(-\infty,3]",
        "(-infinity, 3]", r"(- \infty , 3]", "(-inf,3]", r"\{x \mid x \le 3\}", r"\{x: x\le3\}", r"\{x \in \mathbb{R} : x \leq 3\}", r"3 \ge x",
        "x<=3", r"\{x|x\leq 3\}", "-infinity < x <= 3", r"-\infty<x\le3", r"\left\{x \,\middle|\, x \le 3\right\}"
    ], [
        r"(-\infty,3)", r"[-\infty,3)", r"(\infty,3]", "x<3", "x>=3", r"(-\infty,-3]", "3", r"(-3,\infty)", r"[3,\infty)"
    ]),
    (r"(-\infty,-1)\cup(2,\infty)", [
        r"(2,\infty)\cup(-\infty,-1)", r"x<-1 \text{ or } x>2", r"x \in (-\infty,-1) \cup (2,\infty)", r"(-\infty,-1)\cup(2,+\infty)",
        "(-∞,-1)∪(2,∞)", r"(-\infty, -1) \text{ or } (2, \infty)", r"x>2 \text{ or } x<-1", r"\left(-\infty,-1\right)\bigcup\left(2,\infty\right)",
        r"(-\infty,-1)\cup(2,\infty)", r"\{x \mid x<-1 \text{ or } x>2\}", r"(-\infty,-1),(2,\infty)", r"(-\infty,-1) \text{ and } (2,\infty)",
        "x<-1, x>2", r"(2, \infty) \cup (-\infty, -1)", r"(-\infty,-1)\cup (2,5)\cup [5,\infty)"
    ], [
        r"(-\infty,-1]\cup(2,\infty)", r"(-\infty,-1)\cup[2,\infty)", "(-1,2)", r"(-\infty,1)\cup(2,\infty)", r"(-\infty,-1)\cap(2,\infty)",
        r"(2,\infty)", r"(-\infty,-1)", "-1<x<2", r"(-\infty,2)\cup(-1,\infty)"
    ]),
    ("[0,1)", [
        r"0\le x<1", r"\left[0,1\right)", "[0, 1)", r"x \in [0,1)", "0 <= x < 1", r"\{x \mid 0 \le x < 1\}", r"1 > x \ge 0", "[0,1["
    ], [
        "(0,1]", "[0,1]", "(0,1)", "{0,1}", r"0 \le x \le 1", "0<x<1", "[1,0)", "[0,10)", "[0,-1)"
    ]),
    (r"\{1,2,3\}", [
        "{1,2,3}", r"\{3,1,2\}", "1,2,3", r"\left\{1,2,3\right\}", "3, 2, 1", r"1,2 \text{ and } 3", r"1,2,\text{ and }3", r"\{1, 2, 3\}.",
        "x=1,2,3", "1, 2, or 3", r"x \in \{1,2,3\}", "x=1,x=2,x=3", r"\lbrace 1,2,3 \rbrace", "1 and 2 and 3", "1;2;3", r"\{1\} \cup \{2,3\}",
        r"S=\{1,2,3\}", "x = 1 or x = 2 or x = 3", r"1,\ 2,\ 3", r"\{1,2,3,3\}"
    ], [
        r"\{1,2\}", r"\{1,2,4\}", "(1,2,3,4)", "6", "[1,3]", r"\{1,2,3,4\}", "(1,3)", "123", r"\{-1,2,3\}", "3", "1,2"
    ]),
    (r"\emptyset", [
        r"\varnothing", r"\{\}", "∅", r"\text{no solution}", "no solutions", r"\text{empty set}", r"\emptyset", "No solution."
    ], [
        "0", r"\{0\}", r"\mathbb{R}", "1"
    ]),
    ("2, -2", [
        r"\pm 2", r"\pm2", "±2", "-2,2", r"2 \text{ or } -2", "x=2 or x=-2", r"x = \pm 2", r"\{2,-2\}", "2 and -2", "+2, -2", "x_1 = 2, x_2=-2",
        r"x=2,\quad x=-2", r"2,\quad -2", r"x=2 \text{ or } x=-2", r"2\text{ and }-2", r"-2 \quad\text{or}\quad 2", r"x\in\{-2,2\}"
    ], [
        "2", "-2", "2,2", "-2,-2", "(2,3)", r"\pm 3", "0", "4", r"\mp 3", "2,-2,0"
    ]),
    (r"1 \pm \sqrt{2}", [
        r"1+\sqrt2, 1-\sqrt2", r"1-\sqrt{2},1+\sqrt{2}", r"x=1\pm\sqrt2", r"\{1+\sqrt2,1-\sqrt2\}", r"\frac{2\pm\sqrt{8}}{2}", r"1 \mp \sqrt2",
        r"\frac{2\pm2\sqrt2}{2}"
    ], [
        r"1+\sqrt2", r"-1\pm\sqrt2", r"1\pm\sqrt3", r"2\pm\sqrt2"
    ]),
    ("x^2+2x+1", [
        "(x+1)^2", "x²+2x+1", "1+2x+x^2", "x(x+2)+1", "x^{2}+2 x+1", r"x^2 + 2\cdot x + 1", "x^2+2*x+1", "(1+x)^2", "f(x)=x^2+2x+1", "y=x^2+2x+1",
        r"\left(x+1\right)^2", "(x+1)(x+1)", "x*x+2x+1", "p(x) = x^2+2x+1", "P(x)=(x+1)^2", "x**2+2*x+1", "x^2+2x+1."
    ], [
        "x^2-2x+1", "(x-1)^2", "x^2+2x", "y^2+2y+1", "x^2+x+1", "x^3+2x+1", "2x^2+2x+1", "x^2+2x+1=0", "x2+2x+1"
    ]),
    ("(x-2)(x+3)", [
        "x^2+x-6", "(x+3)(x-2)", r"(x-2) \cdot (x+3)", "-(2-x)(x+3)", r"(x-2)\times(x+3)", "(x - 2)(x + 3)"
    ], [
        "(x+2)(x-3)", "x^2-x-6", "2,-3"
    ]),
    (r"\frac{x+1}{x-1}", [
        "(x+1)/(x-1)", r"\frac{-x-1}{1-x}", r"1+\frac{2}{x-1}", r"\dfrac{x+1}{x-1}", r"{x+1 \over x-1}", r"\frac{(x+1)}{(x-1)}"
    ], [
        r"\frac{x-1}{x+1}", "x+1/x-1", r"\frac{x+1}{1-x}"
    ]),
    ("y=2x+3", [
        "y = 2x + 3", "2x+3", "y-2x=3", "2x-y+3=0", "-2x+y-3=0", "y=3+2x", "3+2x=y", "f(x)=2x+3", "2y=4x+6", "y - 3 = 2x",
        r"y=2\left(x+\frac32\right)", "y = 2x+3."
    ], [
        "y=3x+2", "y=2x-3", "x=2y+3", "y=-2x+3", "y>2x+3", "2y=2x+3", "y=2x", "3"
    ]),
    ("x^2+y^2=25", [
        "y^2+x^2=25", "x^2+y^2-25=0", "25=x^2+y^2", "2x^2+2y^2=50", r"\frac{x^2}{25}+\frac{y^2}{25}=1", "(x-0)^2+(y-0)^2=5^2"
    ], [
        "x^2+y^2=5", "x^2-y^2=25", "x^2+y^2", "25", "x+y=25"
    ]),
    (r"\frac{x^2}{4}+\frac{y^2}{9}=1", [
        "9x^2+4y^2=36", r"\frac{y^2}{9}+\frac{x^2}{4}=1", r"\frac{x^{2}}{2^2}+\frac{y^{2}}{3^2}=1"
    ], [
        r"\frac{x^2}{9}+\frac{y^2}{4}=1", r"\frac{x^2}{4}-\frac{y^2}{9}=1"
    ]),
    ("a^n", [
        "a^{n}", "a^n"
    ], [
    ]),
    (r"\frac{n(n+1)}{2}", [
        r"\frac{n^2+n}{2}", r"\frac12 n(n+1)", r"\binom{n+1}{2}", "n(n+1)/2", r"\frac{1}{2}n^2+\frac12n", "(n^2+n)/2"
    ], [
        r"\frac{n(n-1)}{2}", "n(n+1)", r"\frac{m(m+1)}{2}"
    ]),
    ("2^{n-1}", [
        r"\frac{2^n}{2}", "2^n/2", r"\frac12\cdot2^n"
    ], [
        "2^n-1", "2^{n+1}", "2^n"
    ]),
    (r"\sin 2x", [
        r"2\sin x\cos x", r"\sin(2x)", r"2 \sin(x) \cos(x)", r"\sin{2x}", r"\sin\left(2x\right)"
    ], [
        r"2\sin x", r"\cos 2x", r"\sin^2 x"
    ]),
    (r"x \ge 5", [
        r"x\geq5", "x>=5", "x≥5", r"[5,\infty)", r"x\geqslant 5", r"5\le x", r"2x\ge10", r"[5,+\infty)"
    ], [
        "x>5", "x=5", r"x\le5", r"(5,\infty)", "5", r"x \ge 6"
    ]),
    ("-1 < x < 2", [
        "(-1,2)", r"x\in(-1,2)", "2>x>-1", r"-1<x \text{ and } x<2", r"x>-1 \text{ and } x<2", r"\{x\mid -1<x<2\}", r"-1 \lt x \lt 2", "(-1, 2)"
    ], [
        "[-1,2]", r"-1\le x\le 2", "-2<x<1", r"x<-1 \text{ or } x>2", "(-1,2]"
    ]),
    ("3:4", [
        "3:4", r"\frac{3}{4}", "3/4", "3 : 4", r"3\colon 4", "3 to 4", r"3 \text{ to } 4", "6:8", "3{:}4"
    ], [
        "4:3", "34", "3,4", "7", "3:5"
    ]),
    ("1:2:3", [
        "1 : 2 : 3", "2:4:6"
    ], [
    ]),
    ("12:30", [
        "12{:}30", "12:30", r"12\!:\!30"
    ], [
        "2:5", "12:03", "30:12", "6:15"
    ]),
    ("10:30 a.m.", [
        "10:30 am", "10:30 AM", r"10:30 \text{ a.m.}", "10:30am", r"10:30\text{ AM}"
    ], [
        "10:30 p.m.", "10:31 a.m.", "11:30 a.m."
    ]),
    ("1011_2", [
        "1011_{2}", r"1011_{\text{two}}", "(1011)_2", r"\text{1011}_2", "1011_{(2)}", "{1011}_2", r"1011_{\text{2}}"
    ], [
        "1101_2", "1011_3", "111_2"
    ]),
    ("4AB_{16}", [
        r"4\text{AB}_{16}", "4ab_{16}", r"\text{4AB}_{16}"
    ], [
    ]),
    (r"3 \pmod{7}", [
        "3", r"x \equiv 3 \pmod 7", r"x\equiv 3\pmod{7}", r"3 \mod 7", r"3\ (\text{mod } 7)"
    ], [
        "4", r"x\equiv 3\pmod 8", r"5 \pmod 7"
    ]),
    (r"\text{Yes}", [
        "yes", "Yes.", r"\text{yes}", r"\textbf{Yes}", "YES", r"\mathrm{Yes}", "**Yes**"
    ], [
        "no", "maybe", "yes and no", "not yes"
    ]),
    (r"\text{even}", [
        "even", "Even", r"\textbf{even}", r"\mbox{even}", r"\textit{even}"
    ], [
        "odd", "uneven", "neither"
    ]),
    (r"\text{Tuesday}", [
        "Tuesday", "tuesday", r"\textrm{Tuesday}", r"\mathrm{Tuesday}"
    ], [
        "Thursday", "Monday"
    ]),
    (r"\text{June 20}", [
        "June 20", "june 20", r"\text{June }20"
    ], [
        "June 21", "July 20", "20"
    ]),
    ("Evelyn", [
        r"\text{Evelyn}", "evelyn", "Evelyn."
    ], [
        "Debra", "Evelyn and Debra"
    ]),
    (r"\text{parabola}", [
        "parabola", "Parabola"
    ], [
    ]),
    (r"(\text{B})", [
        "B", r"\text{B}", "(B)", r"\textbf{(B)}", r"\mathrm{B}", r"\textbf{B}", "B.", "B)", r"\textbf{(B)}\ 12", r"\text{(B) }12", "Option B",
        "(B) 12", r"\mathbf{(B)}", "B: 12", r"\textbf{(B)}~\frac12", "**B**", "(B).", "[B]", r"\boxed{B}", "Choice B", "answer B", r"\text{B. }",
        r"\textbf{B.}"
    ], [
        "A", "(C)", "AB", "A, B", "b+c", "D", "8"
    ]),
    ("A, C", [
        "A,C", r"\text{A}, \text{C}", "C, A", r"A \text{ and } C", "A and C", r"\text{A and C}", r"\{A,C\}", "(A), (C)"
    ], [
        "A", "A,B", "A,B,C", "C"
    ]),
    ("AC", [
        r"\text{AC}", "AC"
    ], [
        "AB"
    ]),
    ("undefined", [
        r"\text{undefined}", "Undefined"
    ], [
    ]),
    (r"\text{DNE}", [
        "DNE", "does not exist", r"\text{does not exist}"
    ], [
    ]),
    (r"\infty", [
        "∞", "infinity", r"+\infty", r"\infty", r"\text{infinity}"
    ], [
        r"-\infty", "0", "8"
    ]),
    (r"12 \text{ and } 15", [
        "12, 15", "15, 12", "12 and 15", r"\{12,15\}", r"12\text{ and }15"
    ], [
        "12", "27", "12,16", "(12,16)"
    ]),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", [
        r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", r"\left(\begin{array}{cc}1&2\\3&4\end{array}\right)",
        r"\left[\begin{array}{rr}1 & 2\\ 3 & 4\end{array}\right]", r"\begin{pmatrix}1&2\\3&4\\\end{pmatrix}",
        r"\begin{pmatrix} 1 & 2 \cr 3 & 4 \end{pmatrix}", r"\begin{matrix}1&2\\3&4\end{matrix}", r"\begin{pmatrix}1&\frac42\\3&4\end{pmatrix}",
        r"\left(\begin{matrix}1&2\\3&4\end{matrix}\right)", r"A=\begin{pmatrix}1&2\\3&4\end{pmatrix}",
        r"\begin{pmatrix}1 & 2 \\[2pt] 3 & 4\end{pmatrix}", r"\begin{smallmatrix}1&2\\3&4\end{smallmatrix}",
        r"\mathbf{A} = \begin{bmatrix}1&2\\3&4\end{bmatrix}"
    ], [
        r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 5 \end{pmatrix}", r"\begin{pmatrix}1&2&3&4\end{pmatrix}",
        r"\begin{pmatrix}1\\2\\3\\4\end{pmatrix}", r"-\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", "-2", r"\begin{pmatrix}3&4\\1&2\end{pmatrix}"
    ]),
    (r"\begin{pmatrix} -7 \\ 16 \\ 5 \end{pmatrix}", [
        "(-7,16,5)", r"\begin{bmatrix}-7\\16\\5\end{bmatrix}", r"\langle -7,16,5\rangle", "[-7,16,5]", "(-7, 16, 5)^T", r"[-7,16,5]^\top",
        r"\begin{pmatrix}-7&16&5\end{pmatrix}^T"
    ], [
        "(16,-7,5)", "(7,16,5)", r"\begin{pmatrix}-7\\16\end{pmatrix}", r"\begin{pmatrix}-7\\16\\-5\end{pmatrix}"
    ]),
    (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", [
        "-2"
    ], [
        "2", "10"
    ]),
    (r"\frac{x^3}{3}+C", [
        r"\frac13x^3+C", r"C+\frac{x^3}{3}", r"\frac{1}{3} x^{3}+C", r"\frac{x^{3}}{3} + C", "x^3/3+C"
    ], [
        r"\frac{x^3}{2}+C", r"\frac{x^2}{3}+C", "C"
    ]),
    ("y=C_1e^{x}+C_2e^{-x}", [
        "C_1 e^x + C_2 e^{-x}", "y = C_{1} e^{x} + C_{2} e^{-x}", "y(x)=C_1e^x+C_2e^{-x}"
    ], [
        "y=C_1e^{x}+C_2e^{x}", "y=C_1e^{2x}+C_2e^{-x}"
    ]),
    (r"\frac{dy}{dx}=2x", [
        "2x", "y'=2x", r"\frac{\mathrm{d}y}{\mathrm{d}x} = 2x", "dy/dx = 2x"
    ], [
        "x^2", "2", r"\frac{dy}{dx}=3x"
    ]),
    (r"e^{-t}\sin(2t)", [
        r"e^{-t} \sin 2t", r"\sin(2t)e^{-t}", r"\frac{\sin 2t}{e^t}", r"\exp(-t)\sin(2t)", r"e^{-t}\cdot\sin(2 t)"
    ], [
        r"e^{-t}\cos(2t)", r"e^{t}\sin 2t", r"e^{-t}\sin t"
    ]),
    (r"\frac{1}{s^2+1}", [
        "(s^2+1)^{-1}", "1/(s^2+1)", r"\frac{1}{1+s^{2}}"
    ], [
    ]),
    (r"\arctan 2", [
        r"\tan^{-1} 2", r"\arctan(2)", r"\tan^{-1}(2)", r"\operatorname{arctan}(2)", "arctan(2)", r"\text{arctan}(2)", r"\mathrm{arctan}\,2"
    ], [
        r"\tan 2", r"\frac{1}{\tan 2}", r"\arctan 3"
    ]),
    (r"\sum_{k=1}^{n} k^2", [
        r"\frac{n(n+1)(2n+1)}{6}"
    ], [
    ]),
    (r"\sum_{k=0}^{\infty} \frac{1}{2^k}", [
        "2"
    ], [
        "1"
    ]),
    (r"\sqrt{x^2+1}", [
        "(x^2+1)^{1/2}", r"\sqrt{1+x^{2}}", "(x^2+1)^{0.5}"
    ], [
    ]),
    ("|x-3|", [
        "|3-x|", r"\left|x-3\right|", r"\lvert x-3\rvert", r"\vert x-3 \vert", "|x-3|"
    ], [
    ]),
    (r"\frac{m}{n}=\frac{3}{4}", [
        r"\frac34", "3/4"
    ], [
    ]),
    ("m=5", [
        "5", "m = 5"
    ], [
        "n=5", "m=-5", "6"
    ]),
    (r"x=3,\ y=4", [
        "x=3, y=4", "y=4,x=3", r"x=3 \text{ and } y=4", "(3,4)", r"\left\{\begin{array}{l}x=3\\y=4\end{array}\right.",
        r"\begin{cases}x=3\\y=4\end{cases}", "x=3; y=4", r"x=3\\y=4"
    ], [
        "x=4, y=3", "(4,3)", "3", "x=3", "x=3,y=5"
    ]),
    ("a=2, b=-1, c=3", [
        "(2,-1,3)", "(a,b,c)=(2,-1,3)", "c=3,b=-1,a=2", r"a=2,\quad b=-1,\quad c=3"
    ], [
        "(2,1,3)", "a=2,b=3,c=-1"
    ]),
    ("(1,2), (3,4)", [
        "(3,4),(1,2)", r"(1,2)\text{ and }(3,4)", r"\{(1,2),(3,4)\}", "(1,2);(3,4)", "(x,y)=(1,2),(3,4)", r"(1,2)\text{ or }(3,4)",
        r"(x,y)=(1,2)\text{ or }(3,4)", r"(x,y) \in \{(1,2),(3,4)\}"
    ], [
        "(2,1),(3,4)", "(1,2)", "(1,4),(3,2)", "(1,2,3,4)", "1,2,3,4", "(1,3),(2,4)"
    ]),
    (r"\frac{3}{5}, \frac{4}{5}", [
        "0.6, 0.8", "4/5, 3/5"
    ], [
    ]),
    (r"\left(\frac{3}{5}, -\frac{8}{3}\right)", [
        "(3/5, -8/3)", "(0.6, -8/3)", r"(\tfrac35,-\tfrac83)", r"\left(\dfrac{3}{5},\dfrac{-8}{3}\right)", r"\left(0.6,-2\frac23\right)"
    ], [
        "(3/5, 8/3)", "(-8/3,3/5)", "(3/5,-3/8)"
    ]),
    (r"f(x)=\begin{cases}x & x\ge0\\-x & x<0\end{cases}", [
        r"\begin{cases}x & x\geq 0\\ -x & x<0\end{cases}", r"f(x) = \begin{cases} x & \text{if } x \ge 0 \\ -x & \text{if } x < 0 \end{cases}",
        r"\begin{cases}x, & x\ge0,\\-x, & x<0.\end{cases}"
    ], [
        r"\begin{cases}-x & x\ge0\\x & x<0\end{cases}", "x"
    ]),
    (r"\overline{AB}", [
        r"\overline{AB}", r"\overline{A B}"
    ], [
    ]),
    (r"\triangle ABC", [
        r"\triangle ABC", r"\triangle{ABC}"
    ], [
    ]),
    ("2x-3", [
        r"\text{2x-3}", "2x - 3", "-3+2x", "2 x-3", r"2x\!-\!3", "2x−3", "2x–3"
    ], [
    ]),
    ("k>-1", [
        r"k \in (-1,\infty)", r"(-1,\infty)", "-1<k", "k>-1.", "k > -1"
    ], [
    ]),
    (r"\mathbb{R}", [
        r"\text{all real numbers}", r"(-\infty,\infty)", r"x\in\mathbb{R}", "all real numbers", r"\R", r"\mathbf{R}", r"\Bbb{R}",
        r"(-\infty,+\infty)", "ℝ"
    ], [
    ]),
    (r"\mathbb{R}\setminus\{0\}", [
        r"x\ne0", r"(-\infty,0)\cup(0,\infty)", r"x\neq 0", r"\{x\mid x\ne0\}", r"\mathbb{R}-\{0\}", r"\mathbb{R}\backslash\{0\}", r"x\not=0"
    ], [
        r"\mathbb{R}", r"x\ne1"
    ]),
    (r"x=\frac{\pi}{4}+k\pi, k\in\mathbb{Z}", [
        r"\frac{\pi}{4}+k\pi", r"x=\frac{\pi}{4}+k\pi", r"x = k\pi + \frac{\pi}{4}, \quad k \in \mathbb{Z}",
        r"\frac{\pi}{4}+k\pi \ (k\in\mathbb{Z})", r"\frac{\pi}{4}+\pi k, k \in \mathbb{Z}", r"\frac\pi4+k\pi"
    ], [
        r"x=\frac{\pi}{4}+2k\pi, k\in\mathbb{Z}", r"\frac{\pi}{4}"
    ]),
    ("np.arcsin(10/13)", [
        r"\arcsin(10/13)", r"\arcsin\frac{10}{13}", r"\sin^{-1}\left(\frac{10}{13}\right)"
    ], [
    ]),
    ("-3./2", [
        "-1.5", r"-\frac32", "-3/2"
    ], [
    ]),
    (r"\exp{a*t}", [
        "e^{at}", r"\exp(at)"
    ], [
    ]),
    ("I(0) e^{-t/RC}", [
        r"I(0)e^{-\frac{t}{RC}}", r"I(0)\exp(-t/(RC))", r"I(0) e^{-\frac{t}{R C}}"
    ], [
    ]),
    ("m^2+1", [
        "1+m^2"
    ], [
    ]),
    (r"2 \times 10^{3}", [
        "2000", "2,000"
    ], [
    ]),
    ("1/2, 3", [
        r"\frac12,3", "3, 0.5", r"x=\frac12,3", r"x = 3 \text{ or } x = \frac12"
    ], [
        "1/23", "1,2/3", "1/3, 2"
    ]),
    ("11,12,13,14", [
        "11, 12, 13, 14", r"11,12,13,\text{ and }14", "14,13,12,11"
    ], [
        "11,12,13", "11121314", "11,12,13,15"
    ]),
    ("111,111", [
        "111111", "111{,}111"
    ], [
    ]),
    ("1,000,000", [
        "1000000", "10^6", "1e6", "1,000,000.00"
    ], [
    ]),
    (r"2 \frac{3}{4}\text{ cups}", [
        "2.75", "11/4", "2 3/4 cups", r"2\frac{3}{4}"
    ], [
    ]),
    (r"\frac{2}{3}x", [
        r"\frac{2x}{3}", "2x/3", "2/3x", "(2/3)x", r"\frac23 x", r"\frac{2}{3}\cdot x"
    ], [
    ]),
    ("-x^2+4", [
        "4-x^2", "-(x^2-4)", "(2-x)(2+x)", "-x^{2} + 4"
    ], [
        "(-x)^2+4", "x^2-4", "x^2+4"
    ]),
    (r"3\cdot 2^{n}-1", [
        "3(2^n)-1", r"3 \times 2^{n} - 1", r"-1+3\cdot2^n"
    ], [
        "6^n-1", r"3\cdot2^{n-1}", r"3\cdot 2^{n}"
    ]),
    ("x=y", [
        "y=x", "x-y=0"
    ], [
    ]),
    (r"\frac{\sqrt{6}+\sqrt{2}}{4}", [
        r"\frac{\sqrt{2}(\sqrt3+1)}{4}", r"\cos 15^\circ", r"\sin 75^{\circ}", r"\sin\frac{5\pi}{12}", r"\frac{\sqrt{2}+\sqrt{6}}{4}"
    ], [
        r"\frac{\sqrt{6}-\sqrt{2}}{4}", r"\sin 15^\circ"
    ]),
    (r"\tan^2 x", [
        r"(\tan x)^2", r"\sec^2x-1", r"\frac{\sin^2 x}{\cos^2 x}"
    ], [
    ]),
    ("3.14", [
        "3.14", r"\approx 3.14", "x≈3.14", "3.140"
    ], [
        r"\pi", "3.1", "3.141", "3.14159"
    ]),
    (r"\text{(A)}", [
        "A"
    ], [
    ]),
    ("Undefined", [
        "undefined."
    ], [
    ]),
    ("2007", [
        "2,007", "2007"
    ], [
    ]),
    (r"5 \times 7", [
        "35", r"5 \cdot 7", "5*7", "7 × 5"
    ], [
    ]),
    (r"7^{3} \cdot 2", [
        "686", r"2\cdot7^3", "2*343"
    ], [
    ]),
    (r"\frac{9!}{3!}", [
        "60480", "9!/3!", r"\frac{9!}{6}"
    ], [
    ]),
    (r"\frac{1}{2^{10}}", [
        "2^{-10}", r"\left(\frac12\right)^{10}", "(1/2)^{10}", "1/1024", r"\frac{1}{1024}", "0.0009765625"
    ], [
        "2^{10}", r"\frac{1}{2\cdot10}", "0.001"
    ]),
    ("0.333", [
        "0.333", ".333", "33.3%"
    ], [
        "1/3", r"\frac13", "0.33"
    ]),
    (r"\frac{1000}{3}", [
        r"333\frac{1}{3}", r"333.\overline{3}", "1000/3"
    ], [
        "333", "333.33", "333.3"
    ]),
    (r"4 \sqrt{5} \text{ inches}", [
        r"4\sqrt5", r"\sqrt{80}", r"4\sqrt{5}\text{ in}"
    ], [
    ]),
    ("x+y+z=6", [
        "z=6-x-y", "x+y+z-6=0", "z+y+x=6", "2x+2y+2z=12"
    ], [
        "x+y+z=5", "x+y-z=6"
    ]),
    (r"\theta=\frac{\pi}{3}", [
        r"\frac{\pi}{3}", r"\pi/3", r"\theta = \pi/3"
    ], [
    ]),
    (r"(0,3)\cup(3,5)", [
        r"(3,5)\cup(0,3)", r"(0,5)\setminus\{3\}", r"0<x<5, x\neq3", r"0<x<3 \text{ or } 3<x<5"
    ], [
        "(0,5)", r"(0,3]\cup(3,5)", "(0,3)"
    ]),
    ("-2, 0, 2", [
        "0,2,-2", r"0,\pm2", r"x=0,\pm 2", r"\{-2,0,2\}", r"0, \pm 2", "x=-2,0,2", r"x \in \{0, \pm 2\}"
    ], [
        r"\pm2", "0", "-2,2", "0,2", "[-2,2]"
    ]),
    (r"\begin{pmatrix}3\\6\end{pmatrix}", [
        r"3\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}+2\begin{bmatrix}1\\2\end{bmatrix}",
        r"4\begin{pmatrix}1\\2\end{pmatrix}-\left[\begin{array}{r}1\\2\end{array}\right]",
    ], [
        r"3\begin{pmatrix}2\\1\end{pmatrix}", r"-3\begin{pmatrix}1\\2\end{pmatrix}",
        r"\begin{pmatrix}1\\2\end{pmatrix}+\begin{pmatrix}1&2\end{pmatrix}", r"3\begin{pmatrix}1\\2\\0\end{pmatrix}"
    ]),
    (r"\mathbf{y}=c_1\begin{bmatrix}1\\2\end{bmatrix}e^{3t}+c_2\begin{bmatrix}0\\1\end{bmatrix}", [
        r"c_{1} e^{3t}\begin{pmatrix}1\\2\end{pmatrix} + c_{2}\begin{pmatrix}0\\1\end{pmatrix}",
        r"\begin{pmatrix}c_1e^{3t}\\2c_1e^{3t}+c_2\end{pmatrix}"
    ], [
        r"c_1\begin{pmatrix}2\\1\end{pmatrix}e^{3t}+c_2\begin{pmatrix}0\\1\end{pmatrix}"
    ]),
    ("2", [
        r"\boxed{2}\text{ hours}", r"2\,\text{h}", "$2$ hours", r"\text{2 hours}", "2"
    ], [
    ]),
    (r"\frac{3}{4}", [
        r"\frac{3}{4}\approx 0.75", r"\frac{3}{4}=0.75", r"0.75=\frac34", r"75\%", "3/4 or 0.75", r"\dfrac{3}{4} \text{ or } 0.75",
        r"\frac{3}{4}\,\text{miles}", r"P=\frac{3}{4}", r"\Pr = 3/4", r"\text{Probability} = \frac{3}{4}", r"P(A)=\frac34", r"\mathbb{P}(A)=\frac34",
        r"\frac{75}{100}", r"\frac{\;3\;}{\;4\;}", r"\frac{3}{4}\;.", r"\left.\frac{3}{4}\right.", r"{\frac{3}{4}}", r"\left(\frac{3}{4}\right)",
        r"\frac{{3}}{{4}}", r"\,\frac{3}{4}\,", r"3 \div 4", "3÷4"
    ], [
        r"\frac{4}{3}", "0.34", "34", r"\frac{3}{4}x", r"\frac34+1", r"-\frac34", r"\frac{3}{4}=0.8", "3,4", "7.5", "75", "0.0075"
    ]),
    ("75", [
        r"75\%", "75 %", "75"
    ], [
    ]),
    ("x=2", [
        "2", "x = 2.0", r"x=\frac{4}{2}", r"\boxed{x=2}", r"x\,=\,2", "x=2.", r"\{2\}", r"x\in\{2\}", r"\text{x = 2}", "x == 2"
    ], [
        "x=-2", "y=2", "x>2", "x=2,3", "2x", "x=20", "x^2"
    ]),
    ("-1", [
        "-1.0", r"\cos\pi", "i^2", r"e^{i\pi}", r"-\frac{2}{2}", "(-1)^3", r"\log_{10} 0.1", r"\sqrt[3]{-1}", r"\sin(-\frac{\pi}{2})",
        r"\tan 135^\circ"
    ], [
        "1", "(-1)^2", r"\sqrt{-1}", "i"
    ]),
    (r"[1,\infty)", [
        r"[1,+\infty)", r"x\ge1", r"\left[1,\infty\right)", "[1,∞)", r"1\le x", r"\{x\mid x\geq1\}", r"1\le x<\infty", r"[1,\infty[",
        r"x\in[1,\infty)", r"x \geq 1"
    ], [
        r"(1,\infty)", r"[1,\infty]", r"[-1,\infty)", r"(-\infty,1]", "1", "[1,100)"
    ]),
    (r"(2,3]\cup[5,7)", [
        r"[5,7)\cup(2,3]", r"2<x\le3 \text{ or } 5\le x<7", r"x\in(2,3]\cup[5,7)"
    ], [
        r"(2,3)\cup[5,7)", r"[2,3]\cup[5,7)", "(2,7)", r"(2,3]\cup[5,7]", r"(2,3]\cap[5,7)", "(2,3]"
    ]),
    (r"\{-1, 0, 1\}", [
        r"\{0,\pm1\}", "-1,0,1", r"\{1,0,-1\}", r"x\in\{-1,0,1\}", r"-1, 0, \text{ and } 1", "0, 1, -1", r"\{ -1 , 0 , 1 \}"
    ], [
        r"\{0,1\}", "[-1,1]", "(-1,1)", r"\{-1,0,1,2\}", r"\{-1,0,2\}"
    ]),
    (r"y=-\frac{1}{2}x+3", [
        r"y = 3-\frac{x}{2}", "x+2y=6", "2y+x-6=0", "y=-0.5x+3", r"-\frac12x+3", r"y-3=-\frac12x", r"y=\frac{6-x}{2}", r"f(x)=-\frac{1}{2}x+3"
    ], [
        r"y=\frac{1}{2}x+3", r"y=-\frac12x-3", "y=-2x+3", "x+2y=3", r"x=-\frac12y+3"
    ]),
    ("(x-2)^2+(y+3)^2=16", [
        "(y+3)^2+(x-2)^2=4^2", "x^2+y^2-4x+6y-3=0", "x^2-4x+y^2+6y=3"
    ], [
        "(x+2)^2+(y-3)^2=16", "(x-2)^2+(y+3)^2=4"
    ]),
    (r"\sqrt{13}", [
        r"\sqrt{4+9}", r"13^{\frac12}", r"\sqrt{13}\text{ units}", r"|z|=\sqrt{13}", r"\sqrt{13}", r"d=\sqrt{13}", "sqrt(13)", "√13", "√(13)",
        r"\sqrt{13} \approx 3.606", r"\frac{\sqrt{52}}{2}", r"\frac{13}{\sqrt{13}}", r"\sqrt {13}"
    ], [
        "13", "3.606", r"\sqrt{31}", r"\sqrt[3]{13}", r"13\sqrt{1}", r"-\sqrt{13}"
    ]),
    (r"10\sqrt{2} + 5\sqrt{3}", [
        r"5\sqrt{3}+10\sqrt{2}", r"5(2\sqrt2+\sqrt3)", r"10\sqrt2+\sqrt{75}", "10√2+5√3", r"\sqrt{200}+\sqrt{75}"
    ], [
        r"10\sqrt{2}-5\sqrt3", r"15\sqrt5", r"10\sqrt3+5\sqrt2"
    ]),
    ("August", [
        r"\text{August}", "august", r"\textbf{August}", "August."
    ], [
        "April", "Aug 3"
    ]),
    (r"\text{Monday, Tuesday}", [
        "Monday, Tuesday", "Tuesday, Monday", r"\text{Monday and Tuesday}", "Monday and Tuesday"
    ], [
    ]),
    (r"\text{neither}", [
        "neither", "Neither"
    ], [
    ]),
    (r"\text{(A), (C)}", [
        "A, C", "(A),(C)", "A and C", r"\text{A, C}"
    ], [
    ]),
    ("ABD", [
        "ABD", r"\text{ABD}", r"\mathrm{ABD}"
    ], [
        "ABC", "AB", "D"
    ]),
    (r"3.2\times10^5", [
        "320000", "320,000", "3.2e5", r"3.2\cdot10^5", "3.2 × 10⁵", "3.2*10^5", r"32\times10^4", "3.2x10^5"
    ], [
        "3.2", "3.2e4", "32000", "3200000", "3.25"
    ]),
    ("2^{100}", [
        "4^{50}", r"2^{99}\cdot2", "(2^{50})^2", "1267650600228229401496703205376"
    ], [
        "2^{101}", "1267650600228229401496703205377", "2^{99}+1", "100^2", "2100"
    ]),
    (r"\frac{a+b}{c}", [
        r"\frac{b+a}{c}", r"\frac{a}{c}+\frac{b}{c}", "(a+b)/c", "{(a+b)}/{c}", r"\frac{1}{c}(a+b)"
    ], [
        r"a+\frac bc", r"\frac{c}{a+b}", r"\frac{a-b}{c}", r"\frac{A+b}{c}"
    ]),
    (r"2\pi r h", [
        r"2\pi h r", r"h\cdot 2\pi r", r"2 \pi rh", "2πrh"
    ], [
        r"2\pi r", r"\pi r h", r"2\pi R h", r"2\pi r^2 h"
    ]),
    (r"\frac{-b\pm\sqrt{b^2-4ac}}{2a}", [
        r"-\frac{b}{2a}\pm\frac{\sqrt{b^2-4ac}}{2a}", r"x=\frac{-b \pm \sqrt{b^{2}-4 a c}}{2 a}"
    ], [
        r"\frac{b\pm\sqrt{b^2-4ac}}{2a}", r"\frac{-b+\sqrt{b^2-4ac}}{2a}"
    ]),
    (r"12:45 \text{ p.m.}", [
        "12:45 pm", "12:45 PM", "12:45", r"12{:}45 \text{ PM}"
    ], [
        "12:45 am", "12:54 pm", "1:45 pm"
    ]),
    (r"8\frac{1}{3}\%", [
        r"25/3\%", r"\frac{25}{3}\%", r"\frac{1}{12}", r"8 \frac13 \%", r"8.\overline{3}\%", r"\frac{25}{3}"
    ], [
    ]),
    (r"\$1,000,000", [
        "1000000", "$1,000,000", r"\$1{,}000{,}000", "1,000,000 dollars", "1 000 000", "10^6", r"\$10^6"
    ], [
    ]),
    ("0.05", [
        r"5\%", "1/20", ".05", "0.050", "5e-2", r"5\times10^{-2}", r"\frac{1}{20}"
    ], [
        "5", "0.5", "0.005", "50%", "0.5%"
    ]),
    (r"4 \text{ boys}, 3 \text{ girls}", [
        "4 boys, 3 girls"
    ], [
        "3 boys, 4 girls"
    ]),
    (r"\left(\frac{1}{2},\infty\right)", [
        r"(0.5,\infty)", r"x>\frac12", "x>1/2", r"(\tfrac12,+\infty)", r"\left(\frac{1}{2}, +\infty\right)", "2x>1"
    ], [
    ]),
    (r"n\equiv 2 \pmod 5", [
        "2", r"2 \pmod 5", r"n \equiv 2 \pmod{5}"
    ], [
    ]),
    ("f(x)=x^2+1", [
        "x^2+1", "y=x^2+1", "f(x) = 1+x^2"
    ], [
        "f(x)=x^2-1", "x^2", "f(x)", "2"
    ]),
    (r"3^{\frac{1}{3}}", [
        r"\sqrt[3]{3}", "3^{1/3}", "3^(1/3)", r"3^{\tfrac{1}{3}}"
    ], [
    ]),
    (r"\cot\theta", [
        r"\frac{\cos\theta}{\sin\theta}", r"\frac{1}{\tan\theta}", r"\cot \theta", r"\cot(\theta)"
    ], [
        r"\tan\theta", r"\cot x", r"\arctan\theta"
    ]),
    (r"\ln\frac{3}{2}", [
        r"\ln 3-\ln 2", r"\ln 1.5", r"\ln(3/2)", r"\log_e\frac32", r"-\ln\frac{2}{3}", r"\ln\left(\frac{3}{2}\right)"
    ], [
    ]),
    ("1, 3, 5, 7", [
        "1,3,5,7", "7,5,3,1", r"\{1,3,5,7\}", "1; 3; 5; 7", r"1,\ 3,\ 5,\ 7", "1, 3, 5, and 7", r"1,3,5,\text{and }7"
    ], [
    ]),
    ("(3,-1)", [
        r"x=3,\,y=-1", "(3, −1)", r"\left(3,-1\right)", r"x = 3 \text{ and } y = -1", "(x,y)=(3,-1)", r"\{(3,-1)\}", "A(3,-1)",
        r"\left\langle 3,-1\right\rangle"
    ], [
        "(-1,3)", "(3,1)", "[3,-1]", "3,-1,0", "(3,-1,0)"
    ]),
    (r"5\text{ or }-5", [
        r"\pm5", "5,-5", "-5, 5", r"x=\pm5", r"\{5,-5\}", "5 or -5"
    ], [
    ]),
    (r"\text{True}", [
        "true", "True.", r"\textbf{True}", "TRUE"
    ], [
        "False", "not true", "untrue"
    ]),
    ("2a", [
        "2 a", r"2\cdot a", "a+a", r"a\times2", "2a"
    ], [
        "a^2", "2b", "2", "a"
    ]),
    ("i", [
        r"\mathrm{i}", r"\sqrt{-1}", "0+i", r"e^{i\pi/2}"
    ], [
    ]),
    ("1-2i", [
        "-2i+1", "1 - 2 i", r"1-2\mathrm{i}", "(1)+(-2)i"
    ], [
    ]),
    (r"n\pi, n \in \mathbb{Z}", [r"n\pi", r"\pi n \ (n\in\mathbb{Z})", r"n\pi \text{ for all integers } n"], [r"2n\pi", r"\pi", r"\pi \ (n\in\mathbb{Z})"]),
]  # fmt: skip

# (response, ground truth, is it correct)
RESPONSES: list[tuple[str, str, bool]] = [
    ('The final answer is $\\boxed{12}$. I hope it is correct.', '12', True),
    ('Final Answer: The final answer is $\\frac{1}{2}$. I hope it is correct.', '1/2', True),
    ('Final Answer: The final answer is $\\frac{1}{2}$. I hope it is correct.', '2', False),
    ('Therefore, the answer is (B).', 'B', True),
    ('The correct answer is **(C) 12**.', 'C', True),
    ('The correct answer is option D.', 'D', True),
    ('So the answer is C. 15', 'C', True),
    ('The correct option is (A).', 'A', True),
    ('Thus, the answer is $\\textbf{(E)}\\ 7$.', 'E', True),
    ('Answer: (D)', 'D', True),
    ('Answer: D) 42', 'D', True),
    ('**Answer: B**', 'B', True),
    ('**Answer**: B', 'B', True),
    ('The answer is B because it is larger than A.', 'B', True),
    ('The answer is A.', 'B', False),
    ('#### 1,234', '1234', True),
    ('#### $18', '18', True),
    ('#### 18 dollars', '18', True),
    ('#### -5', '-5', True),
    ('#### 18.00', '18', True),
    ('####18', '18', True),
    ('#### 18\n\nLet me know if you have questions!', '18', True),
    ('#### 12 eggs.', '12', True),
    ('### Answer\n\n42', '42', True),
    ('### Final Answer\n$$42$$', '42', True),
    ('## Final answer: 42', '42', True),
    ('#### 50%', '0.5', True),
    ('#### **18**', '18', True),
    ('#### \\boxed{18}', '18', True),
    ('#### Answer: 18', '18', True),
    ('x = 3\n\nTherefore x is \\boxed{3}', '3', True),
    ('Let me check \\boxed{4}... no wait, it should be \\boxed{5}', '5', True),
    ('Let me check \\boxed{4}... no wait, it should be \\boxed{5}', '4', False),
    ("<think>\nI think it's \\boxed{7}\n</think>\n\nThe answer is \\boxed{8}.", '8', True),
    ("<think>\nI think it's \\boxed{7}\n</think>\n\nThe answer is \\boxed{8}.", '7', False),
    ("<think>I think it's \\boxed{7}", '7', True),
    ('<think>foo</think>\n\n**42**', '42', True),
    ('<think>foo \\boxed{3}</think>\n\nSo it is 42.', '42', True),
    ('<think>foo \\boxed{3}</think>', '3', True),
    ('The solutions are $x=\\boxed{2}$ and $x=\\boxed{3}$.', '2,3', True),
    ('The solutions are $x=\\boxed{2}$ and $x=\\boxed{3}$.', '3,2', True),
    ('$\\boxed{2}$ or $\\boxed{3}$', '2,3', True),
    ('\\boxed{2}, \\boxed{3}, \\boxed{5}', '2,3,5', True),
    ('Thus $$\\boxed{\n42\n}$$', '42', True),
    ('Thus \\boxed{ 42 }', '42', True),
    ('Thus \\boxed {42}', '42', True),
    ('Thus $\\boxed42$', '42', True),
    ('\\[\n\\boxed{\\frac{3}{4}}\n\\]', '0.75', True),
    ('\\[ x = \\boxed{\\dfrac{3}{4}}. \\]', '3/4', True),
    ('$\\boxed{x = 5}$', '5', True),
    ('$\\boxed{\\text{Yes}}$', 'Yes', True),
    ('\\boxed{42}\n\n---\n\nNote: 43 is wrong because it is odd.', '42', True),
    ('\\fbox{42}', '42', True),
    ('\\framebox{42}', '42', True),
    ('\\boxed{\\boxed{42}}', '42', True),
    ('\\boxed{\\text{The answer is }42}', '42', True),
    ('$\\boxed{42$', '42', True),
    ('\\boxed{42', '42', True),
    ('\\boxed{}', '42', False),
    ('\\boxed{?}', '42', False),
    ('\\boxed{\\phantom{0}42}', '42', True),
    ('\\boxed{\\textbf{42}}', '42', True),
    ('\\boxed{$42$}', '42', True),
    ('$\\boxed{\\mathbf{42}}$', '42', True),
    ('\\\\boxed{42}', '42', True),
    ('\\boxed{42}\\boxed{42}', '42', True),
    ('\\boxed{42 \\text{ (approximately)}}', '42', True),
    ('\\boxed{\\approx 42}', '42', True),
    ('\\boxed{A=42}', '42', True),
    ('\\boxed{42 + 0i}', '42', True),
    ('\\boxed{42,}', '42', True),
    ('The answer is 42. The answer is 43.', '43', True),
    ('The answer is 42. The answer is 43.', '42', False),
    ('\\boxed{42}. Wait, actually the answer is \\boxed{43}.', '43', True),
    ('the answer is $x=5$', '5', True),
    ('the answer is: $$\\frac{5}{2}$$', '2.5', True),
    ('The answer is:\n\n\\frac{5}{2}', '2.5', True),
    ('The answer is:\n$$\n\\frac{5}{2}\n$$', '2.5', True),
    ('The answer is \\(5\\).', '5', True),
    ('The answer is 5 apples.', '5', True),
    ('The answer is five.', '5', False),
    ('answer: 5', '5', True),
    ('ANSWER: 5', '5', True),
    ('Ans: 5', '5', True),
    ('Ans. 5', '5', True),
    ('A: 5', '5', True),
    ('Final answer = 5', '5', True),
    ('My final answer is 5', '5', True),
    ('The final answer is therefore 5.', '5', True),
    ('Hence, the required answer is $5$.', '5', True),
    ('Answer:\n5', '5', True),
    ('Answer:\n\n5', '5', True),
    ('Answer:\n\n$$5$$', '5', True),
    ('**Answer:**\n\n5', '5', True),
    ('**Final Answer**\n\n5', '5', True),
    ('**Final Answer**\n\n\\[ \\boxed{5} \\]', '5', True),
    ('**Final Answer:** $5$', '5', True),
    ('Answer: $\\boxed{5}$', '5', True),
    ('Answer: \\boxed{5}', '5', True),
    ('Answer: x = 5', '5', True),
    ('Answer: 5.', '5', True),
    ('Answer: $5$.', '5', True),
    ('Answer: 5 cm', '5', True),
    ('Answer: **5**', '5', True),
    ('Answer - 5', '5', True),
    ('Answer: \\(5\\)', '5', True),
    ('Answer: The value is 5', '5', True),
    ('> Answer: 5', '5', True),
    ('- Answer: 5', '5', True),
    ('Final answer: $\\{1,2\\}$', '1,2', True),
    ('Answer: 1,250', '1250', True),
    ('Answer: 1, 2, 3', '1,2,3', True),
    ('Answer: (1, 2)', '(1,2)', True),
    ('Answer: [1, 2)', '[1,2)', True),
    ('Answer: [1, 2)', '(1,2)', False),
    ('Answer: $5 (five dollars)', '5', True),
    ('Answer: no solution', 'no solution', True),
    ('She has 5 + 3 = 8 apples left.', '8', True),
    ('She makes $18 every day.', '18', True),
    ('It costs 12.50 dollars', '12.5', True),
    ('so the total is 3/4.', '3/4', True),
    ('so x = -5', '-5', True),
    ('so it is 5-3=2', '2', True),
    ("That's 20%.", '20', True),
    ('We get 1,250.', '1250', True),
    ('So 3 * 4 = 12 eggs are left over after 2 days', '12', False),
    ('so the probability is $\\frac{3}{7}$.', '3/7', True),
    ('Thus we get $\\sqrt{2}$', '\\sqrt{2}', True),
    ('it equals 3.14.', '3.14', True),
    ('it equals 3.14', '3', False),
    ('\\boxed{3}\n\nSo the answer is 3 meters.', '3', True),
    ('The answer is $\\boxed{-2}$, not 2.', '-2', True),
    ('Answer: 7\n\nExplanation: since 3+4 = 7, and 8 is wrong.', '7', True),
    ('The answer is 7. This is since 3+4 = 7', '7', True),
    ('\\boxed{\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}}', '(1,2)', True),
    ('\\boxed{\\left\\{1,2\\right\\}}', '\\{2,1\\}', True),
    ('\\boxed{\\left( -\\infty, 3 \\right]}', 'x \\le 3', True),
    ('$$\\boxed{f(x)=\\frac{1}{x}}$$', '\\frac1x', True),
    ('$\\boxed{(\\text{B})}$', 'B', True),
    ('\\boxed{B}', '\\text{(B)}', True),
    ('\\boxed{\\textbf{(B)}}', 'B', True),
    ('\\boxed{B) 5}', 'B', True),
    ('\\boxed{1{,}234}', '1234', True),
    ('\\boxed{1,234}', '1234', True),
    ('\\boxed{\\$1234}', '1234', True),
    ('\\boxed{90^\\circ}', '90', True),
    ('\\boxed{50\\%}', '50', True),
    ('\\boxed{50\\%}', '0.5', True),
    ('\\boxed{0.5}', '50', False),
    ('\\boxed{2 \\text{ or } 3}', '2,3', True),
    ('\\boxed{x=2, y=3}', '(2,3)', True),
    ('\\boxed{3 \\text{ hours } 30 \\text{ minutes}}', '3 hours 30 minutes', True),
    ('So the answer is \\boxed{42}<|im_end|>', '42', True),
    ('So the answer is \\boxed{42}</s>', '42', True),
    ('So the answer is \\boxed{42}<|endoftext|>Human: what is \\boxed{1}', '42', True),
    ('So the answer is \\boxed{42}<|eot_id|>', '42', True),
    ('答案是 \\boxed{42}。', '42', True),
    ('答案：42', '42', True),
    ('答案是42。', '42', True),
    ('La réponse est 42.', '42', True),
    ('Die Antwort ist 42', '42', True),
    ('La respuesta es $\\boxed{42}$', '42', True),
    ('The answer is $42.', '42', True),
    ('The total cost is $42.00.', '42', True),
    ('The answer is \\$42', '42', True),
    ('Thus, she paid $5 for 3 items, total $15.', '15', True),
    ('Answer: \\frac{1}{2}', '0.5', True),
    ('Answer: $\\frac{1}{2}$ of the cake', '0.5', True),
    ('Answer: \\text{(C)}', 'C', True),
    ('Answer: 3:4', '3/4', True),
    ('Answer: 10:30 AM', '10:30 am', True),
    ('Answer: x > 5', '(5,\\infty)', True),
    ('Answer: x^2 + 1', 'x^2+1', True),
    ('Answer: y = x^2 + 1.', 'x^2+1', True),
    ('Answer: Tuesday', 'Tuesday', True),
    ('The answer is Tuesday.', '\\text{Tuesday}', True),
    ('The answer is $\\text{Tuesday}$', 'Tuesday', True),
    ('The day is \\boxed{\\text{Tuesday}}.', 'Tuesday', True),
    ('The final answer is 2 + 2 = 4.', '4', True),
    ('The answer is 2 + 2 = 4', '4', True),
    ('the answer is x = 2 + 2 = 4', '4', True),
    ('the answer is approximately 3.14', '3.14', True),
    ('the answer is about $3.14$', '3.14', True),
    ('the answer is only 3', '3', True),
    ('the answer is not 3 but 4', '4', True),
    ('The answer is 3, not 4.', '3', True),
    ('the answer is 3 (since 4 is too large).', '3', True),
    ('the answer is $3$ (since $4$ is too large).', '3', True),
    ('The answer is $3$, since $4-1=3$.', '3', True),
    ('The answer is $\\frac{3}{4}$, or 0.75.', '3/4', True),
    ('The answer is 3/4, or 0.75.', '3/4', True),
    ('The answer is 0.75 or 3/4.', '3/4', True),
    ('The answer is 16 cm, or about 6.3 inches.', '16', True),
    ('Answer: 16 cm (about 6.3 inches)', '16', True),
    ('The smallest is 3.\n\nAnswer: $3$', '3', True),
    ('I think the answer is either 3 or 4.', '3', False),
    ('1. The answer is 42', '42', True),
    ('So the answer is ... 42', '42', True),
    ('The answer is, 42.', '42', True),
    ('Therefore the answer is thus \n 42', '42', True),
    ('The answer to the problem is 42.', '42', True),
    ('The answer for part (a) is 42.', '42', True),
    ('the answers are 2 and 3', '2,3', True),
    ('The answers are $x=2$ and $x=3$.', '2,3', True),
    ('The answers are $2$, $3$.', '3,2', True),
    ('The final answer is \\( \\boxed{2} \\).', '2', True),
    ('The final answer is [2].', '2', True),
    ('Final Answer: $$\\boxed{\\text{No}}$$', 'no', True),
]  # fmt: skip
