"""`ar3po report RUN` in its three forms. The sentences: test_findings.py; broken folders: test_run_data.py."""

import json

import pytest
from fakes.planted_run import PlantedRun, learning

from megatron_ar3po import cli


@pytest.fixture
def run(tmp_path):
    return PlantedRun(skill=learning).write(tmp_path / "run")


def test_it_writes_one_page_into_the_folder_and_says_what_matters(run, capsys):
    before = set(run.rglob("*"))
    assert cli.main(["report", str(run)]) == 0
    assert set(run.rglob("*")) - before == {run / "report.html"}
    said = capsys.readouterr()
    assert " ".join(said.out.split()).startswith("- It learned: pass@1 on 200 held-out prompts")
    assert f"the report: {run}/report.html" in said.out
    assert said.err == ""
    text = (run / "report.html").read_text(encoding="utf-8")
    for key in ("accuracy", "stages", "fate", "budget", "store", "time", "mismatch", "lengths"):
        assert f'<section id="{key}">' in text
        assert f'data-figure="{key}-1"' in text
    for key in ("prompts", "samples", "totals"):
        assert f'<section id="{key}">' in text


def test_the_page_has_the_totals_of_the_ledger_as_the_other_forms_do(run, capsys):
    assert cli.main(["report", str(run), "--out", str(run.parent / "page.html")]) == 0
    capsys.readouterr()
    text = (run.parent / "page.html").read_text(encoding="utf-8")
    assert "<th scope=row>responses generated</th><td>1,600</td>" in text
    assert "<th scope=row>tokens generated</th><td>16,000</td>" in text
    assert cli.main(["report", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["responses_total"], found["tokens_total"]) == (1600, 16000)
    assert [f["key"] for f in found["findings"]] == [
        "learning",
        "cost",
        "waste",
        "verifier",
        "best",
    ]
    assert cli.main(["report", str(run), "--text"]) == 0
    assert "1,600" in capsys.readouterr().out
    assert not (run / "report.html").exists()


def test_an_unfinished_run_has_a_page_and_a_sentence(run, capsys):
    (run / "DONE").unlink()
    assert cli.main(["report", str(run)]) == 0
    note = "The run ended after step 20 of 20 without saying so"
    assert note in capsys.readouterr().err
    assert note in (run / "report.html").read_text(encoding="utf-8")


def test_what_is_no_place_for_a_page_is_refused(run, tmp_path, capsys):
    assert cli.main(["report", str(run), "--out", str(tmp_path)]) == 2
    assert "is a folder; name a file in it" in capsys.readouterr().err
    assert cli.main(["report", str(run), "--out", str(tmp_path / "gone/page.html")]) == 2
    assert "make it first" in capsys.readouterr().err
    assert cli.main(["report", str(tmp_path / "nothing")]) == 2
    assert not list(tmp_path.glob("*.html"))


def test_the_first_version_s_run_has_a_page(old_run, capsys):
    assert cli.main(["report", str(old_run), "--out", "page.html"]) == 0
    capsys.readouterr()
    with open("page.html", encoding="utf-8") as file:
        text = file.read()
    assert '<section id="accuracy">' in text and '<section id="samples">' in text
