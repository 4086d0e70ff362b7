"""A page is one file that asks for nothing, and what a model wrote is text in it, whatever it wrote.
How it looks and works in a browser: tests/e2e/test_report_page.py."""

import doctest
import json
import re

from megatron_ar3po.reporting import page, plots
from megatron_ar3po.reporting.page import Page, Section, render_page, table, write_page

NASTY = '</script><img src=x onerror="alert(1)">\x00\ud800\u2028 & <!--'


def text_of(**options) -> str:
    return "".join(render_page(Page(title="a run", subtitle="", sections=[], **options)))


def test_the_examples_in_the_docstrings_are_true():
    for module, attempted in ((page, 2), (plots, 2)):
        results = doctest.testmod(module)
        assert (results.attempted, results.failed) == (attempted, 0)


def test_what_a_model_wrote_is_never_markup(tmp_path):
    section = Section(
        key="a", title=NASTY, look_for=NASTY, markup=table([(NASTY, NASTY)], (NASTY,))
    )
    shown = Page(
        title=NASTY,
        subtitle=NASTY,
        sections=[section],
        findings=[("learning", "good", NASTY)],
        notes=[NASTY],
        data={"samples": [NASTY]},
    )
    write_page(shown, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<img" not in text and "<!--" not in text and "\x00" not in text
    [data] = re.findall(r'id="data-samples">(.*?)</script>', text)
    assert json.loads(data) == [NASTY]
    assert text.count("<script") == text.count("</script>") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_figure_is_data_and_brings_the_library_with_it():
    name = "</script><b>"
    figure = plots.figure([plots.line(name, ([1, 2], [0.5, 1.0]))], x="step", y="y")
    section = Section(key="a", title="A", look_for="", figures=(figure,))
    text = "".join(render_page(Page(title="", subtitle="", sections=[section])))
    [data] = re.findall(r'data-figure="a-1">(.*?)</script>', text)
    assert json.loads(data)["data"][0]["name"] == name
    assert "plotly.js v" in text
    assert "plotly.js v" not in text_of()


def test_the_page_forbids_itself_every_request():
    """The only addresses are in the library's own text; no element of the page has one."""
    text = text_of()
    assert "default-src 'none'" in text
    assert not re.search(r'(src|href)="(?!data:,|#)', text)


def test_means_of_neighbours_stand_for_too_many_points():
    """Ten steps of values 0 to 9 as five points."""
    rows = [{"step": step, "a": float(step)} for step in range(10)] + [{"step": 10}]
    steps, values = plots.series(rows, "a", max_points=5)
    assert values.tolist() == steps.tolist() == [0.5, 2.5, 4.5, 6.5, 8.5]


def test_bins_of_steps_are_whole_and_cover_the_last():
    import numpy as np

    assert plots.step_edges(np.array([1, 2, 3])).tolist() == [1, 2, 3, 4]
    edges = plots.step_edges(np.array([0, 999]), max_points=300)
    assert edges[0] == 0 and edges[-1] > 999 and set(np.diff(edges)) == {4}
