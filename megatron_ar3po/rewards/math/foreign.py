r"""Commands that are no mathematics: TeX that reads files, runs programs, defines or links things.

An answer that holds one is not read at all. Without the command it would be another answer: `\input{notes}1` is not 1.
"""

from __future__ import annotations

import re

from megatron_ar3po.rewards.math.known_names import ACCENTS, ALIASES, FUNCTIONS, OF_SEVERAL, SYMBOLS
from megatron_ar3po.rewards.math.tidy import COMMANDS
from megatron_ar3po.rewards.math.words import words

_PROGRAMS = frozenset(
    words(
        "input include includeonly includegraphics write openin openout closein closeout read readline immediate "
        "special directlua latelua luaexec luadirect ShellEscape def edef gdef xdef let futurelet newcommand "
        "renewcommand providecommand DeclareMathOperator DeclareRobustCommand NewDocumentCommand newenvironment "
        "newread newwrite newcount catcode lccode uccode mathcode csname endcsname expandafter noexpand "
        "scantokens detokenize meaning jobname usepackage RequirePackage documentclass lstinputlisting "
        "verbatiminput InputIfFileExists IfFileExists CatchFileDef loop repeat message errmessage typeout show "
        "showthe afterassignment aftergroup everymath href url verb cite ref eqref footnote bibliography "
        "pdffiledump pdfmdfivesum immediatewrite primitive variable "
    )
)
_MATHEMATICS = frozenset(
    (
        *FUNCTIONS,
        *ALIASES,
        *OF_SEVERAL,
        *SYMBOLS,
        *ACCENTS,
        *COMMANDS,
        *words(
            "frac dfrac tfrac cfrac sfrac nicefrac flatfrac sqrt root binom dbinom tbinom choose over pmod bmod "
            "mod pod text textnormal textrm textbf textit textsf texttt textup textsc textmd mbox hbox mathrm "
            "mathbf mathit mathsf mathtt mathnormal mathcal mathfrak mathscr mathbb Bbb boldsymbol bm bold emph "
            "operatorname mathop mathord mathrel mathbin mathopen mathclose mathinner mathstrut ensuremath boxed "
            "fbox framebox box underline color textcolor colorbox phantom hphantom vphantom hspace vspace hskip "
            "mspace kern mkern label tag notag begin end left right middle big Big bigg Bigg bigl bigr Bigl Bigr "
            "biggl biggr Biggl Biggr displaystyle textstyle scriptstyle scriptscriptstyle limits nolimits "
            "substack smash stackrel overset underset sideset prescript overbrace underbrace overleftarrow "
            "overleftrightarrow underleftarrow underrightarrow xrightarrow xleftarrow bar widebar check breve "
            "acute grave mathring overparen overarc wideparen widearc arc not cancel bcancel xcancel sout lim "
            "limsup liminf sup inf sum prod coprod int iint iiint oint bigcup bigcap bigoplus bigotimes det dim "
            "deg ker hom arg Pr sgn tr rank span infty pm mp cdot times div ast circ bullet cup cap setminus in "
            "notin ni subset subseteq supset supseteq forall exists neg to mapsto rightarrow leftarrow Rightarrow "
            "Leftarrow implies iff le leq ge geq ne neq lt gt approx sim simeq cong equiv propto mid vert lvert "
            "rvert lVert rVert Vert langle rangle lfloor rfloor lceil rceil lbrace rbrace lbrack rbrack quad "
            "qquad enspace space hfill newline emptyset varnothing dots ldots cdots vdots ddots degree prime perp "
            "parallel therefore because land lor wedge vee Re Im imath jmath textsuperscript textsubscript rm bf "
            "it sf tt cal large Large small tiny normalsize hline multicolumn multirow cline pi varepsilon "
            "vartheta varphi varrho varsigma varpi digamma aleph beth complement triangleleft triangleright "
            "square blacksquare checkmark ce SI si unit qty num ang pu raisebox boldmath hfil protect relax "
            "pounds euro dollar "
        ),
    )
)
_COMMAND = re.compile(r"\\([A-Za-z]+)\*?(\s*[{\[])?")


def foreign_command(text: str) -> str | None:
    r"""The first command that is no mathematics: one of those above, or an unknown one with an argument.

    >>> foreign_command(r"\input{notes}1"), foreign_command(r"\frac{1}{2}\foo"), foreign_command(r"\foo{3}5")
    ('input', None, 'foo')
    """
    if "\\" not in text:
        return None
    for command in _COMMAND.finditer(text):
        name = command[1]
        if name in _PROGRAMS or (command[2] and name not in _MATHEMATICS):
            return name
    return None
