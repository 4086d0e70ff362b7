"""The pages as a reader walks through them: links lead somewhere, every page can be reached from the README, the files
that a page or a docstring names are there, and what is dated is in order. Not checked: links to other sites.
"""

from __future__ import annotations

import ast
import re
import subprocess
from datetime import date
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from megatron_ar3po.config.renamed import RENAMED

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = "docs|examples|benchmarks|tests|tools|requirements|launch_slurm|megatron_ar3po"


@cache
def list_tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


@cache
def pages() -> list[Path]:
    return [path for path in list_tracked() if path.suffix == ".md"]


def prose(page: Path) -> str:
    """Without fenced blocks and code spans, in which brackets are no links."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "code", text)


def links(page: Path) -> list[str]:
    return links_of(prose(page))


def links_of(text: str) -> list[str]:
    """The targets of links and pictures inside the repository."""
    found = re.findall(r"\]\(([^()\s]+)\)", text)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_links_are_found_and_other_sites_left_out():
    text = "[a](pages/a.md#stages) ![b](b.png) [c](https://example.com)"
    assert links_of(text) == ["pages/a.md#stages", "b.png"]


def test_every_link_between_pages_leads_somewhere():
    dead = []
    for page in pages():
        for target in links(page):
            name, _, anchor = target.partition("#")
            there = (page.parent / name).resolve() if name else page
            if not there.exists() or (anchor and anchor not in anchors(there)):
                dead.append(f"{page.relative_to(ROOT)}: {target}")
    assert dead == []


def test_every_page_can_be_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached:
            reached.add(page)
            targets = [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
            waiting += [there for there in targets if there.suffix == ".md" and there.is_file()]
    assert sorted(str(p.relative_to(ROOT)) for p in set(pages()) - reached) == []


def test_every_file_that_a_page_names_is_there():
    gone = []
    for page in pages():
        for span in re.findall(rf"`((?:{FOLDERS})/[^`\s]*)`", page.read_text()):
            if not list(ROOT.glob(span.rstrip("/"))):
                gone.append(f"{page.relative_to(ROOT)}: {span}")
    assert gone == []


def test_every_page_and_benchmark_that_the_code_names_is_there():
    gone = []
    for path in list_tracked():
        if path.suffix in {".py", ".sh", ".yaml", ".toml"}:
            for name in re.findall(
                r"\b((?:docs|benchmarks)/[\w/]+\.(?:md|py))\b", path.read_text()
            ):
                if not (ROOT / name).is_file():
                    gone.append(f"{path.relative_to(ROOT)}: {name}")
    assert gone == []


def test_the_functions_of_the_objectives_page_are_in_the_files_it_names():
    text = (ROOT / "docs/algorithms.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| `(\w+)` \| `(\w+\.py)`", text, re.MULTILINE)
    assert len(rows) == 7
    for function, file in rows:
        assert f"def {function}(" in (ROOT / "megatron_ar3po/algorithm" / file).read_text()


def test_decisions_are_dated_newest_first():
    headings = re.findall(r"^## (.+)$", (ROOT / "DECISIONS.md").read_text(), re.MULTILINE)
    days = [date.fromisoformat(heading.split(" ", 1)[0]) for heading in headings]
    assert len(days) >= 18
    assert all(newer >= older for newer, older in pairwise(days))


def test_the_changelog_lists_every_renamed_option():
    text = (ROOT / "CHANGELOG.md").read_text()
    rows = re.findall(r"^ *\| `([\w.]+)` \| `([\w.]+)` \|$", text, re.MULTILINE)
    assert len(RENAMED) >= 14
    assert RENAMED.items() <= dict(rows).items()


def test_every_benchmark_has_its_question_and_its_result():
    text = (ROOT / "benchmarks/README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| .*\? \| |^\| `(\w+)` \| .* \| has not run \|$", text, re.M)
    programs = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert {first or second for first, second in rows} == programs
    for name in programs:
        tree = ast.parse((ROOT / f"benchmarks/{name}.py").read_text())
        assert f"python benchmarks/{name}.py" in (ast.get_docstring(tree) or ""), name


def test_every_result_says_how_it_was_made():
    results = sorted((ROOT / "benchmarks/results").glob("*.md"))
    assert len(results) >= 13
    for result in results:
        fields = dict(re.findall(r"^\| ([\w ]+) \| (.+) \|$", result.read_text(), re.MULTILINE))
        assert {"command", "date", "machine", "recorded in commit"} <= set(fields), result.name
        date.fromisoformat(fields["date"])
