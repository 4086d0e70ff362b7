"""The report in a real browser, on a planted run: what is drawn, what the filters let through, light, dark, paper and
phone, and that nothing is asked for. The report of a real run: test_main_job.py."""

import json

import pytest
from fakes.planted_run import PlantedRun, learning

from megatron_ar3po import cli

NASTY = "</script><img src=https://example.com/x onerror=alert(1)> \x00\x1b[31m \ud800 \u202e"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """20 steps of 2 recorded groups of 8 responses, half of the steps of each source; one more group by hand."""
    folder = tmp_path_factory.mktemp("report") / "run"
    PlantedRun(skill=learning).write(folder)
    responses = [
        {"text": NASTY, "status": "no_answer", "reason": NASTY, "tokens": 5, "origin": "reused"},
        {"text": "long " * 200_000, "status": "truncated", "tokens": 9},
        {"text": "", "status": "incorrect", "tokens": 1},
    ]
    row = {
        "step": 20,
        "prompt": NASTY,
        "ground_truth": NASTY,
        "source": NASTY,
        "responses": responses,
    }
    with (folder / "rollouts.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    assert cli.main(["report", str(folder)]) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def loaded(report, browser):
    with browser.open(report) as page:
        yield page


@pytest.fixture
def opened(loaded):
    """The same page for several tests, its filters as they were when it was opened."""
    for name in ("status", "origin", "source"):
        loaded.page.select_option(f"#by-{name}", "")
    for name in ("from", "to", "text"):
        loaded.page.fill(f"#by-{name}", "")
    yield loaded
    loaded.require_quiet()


def count_shown(opened) -> tuple[int, int]:
    """Responses and groups, as the page counts them; the list shows the first 20 groups of them."""
    words = opened.page.inner_text("#sample-count").replace(",", "").split()
    return int(words[0]), int(words[3])


def test_every_figure_has_marks(opened):
    figures = opened.figures()
    names = {name.rpartition("-")[0] for name in figures}
    assert names == {
        *(
            "accuracy",
            "stages",
            "fate",
            "budget",
            "counterfactual",
            "store",
            "time",
            "update",
            "mismatch",
            "lengths",
        ),
        *("prompts", "prompt"),
    }
    assert {name: opened.marks(name) for name in figures if not opened.marks(name)} == {}
    for section in opened.page.query_selector_all("section"):
        if section.query_selector(".figure"):
            assert section.query_selector(".look").inner_text().endswith(".")


def test_the_filters_change_what_is_shown(opened):
    """41 groups, 40 of 8 responses and one of 3. Odd steps are of `sums`, even ones of `more sums`."""
    page = opened.page
    assert count_shown(opened) == (40 * 8 + 3, 41)
    assert page.locator("#sample-list .group").count() == 20
    page.click("#more")
    page.click("#more")
    assert page.locator("#sample-list .group").count() == 41
    assert page.locator("#more").is_hidden()
    right = page.locator("#sample-list .status.correct").count()
    assert 0 < right < 320
    page.select_option("#by-status", "=correct")
    assert count_shown(opened)[0] == right
    assert page.locator("#sample-list .status.incorrect").count() == 0
    page.select_option("#by-status", "")
    page.select_option("#by-source", "=sums")
    assert count_shown(opened) == (10 * 2 * 8, 20)
    page.fill("#by-from", "5")
    page.fill("#by-to", "8")
    assert count_shown(opened) == (2 * 2 * 8, 4)
    page.select_option("#by-source", "")
    assert count_shown(opened) == (4 * 2 * 8, 8)
    page.fill("#by-from", "")
    page.fill("#by-to", "")
    page.fill("#by-text", "ONERROR=ALERT")
    assert count_shown(opened) == (3, 1)
    page.select_option("#by-origin", "=reused")
    assert count_shown(opened) == (1, 1)
    page.fill("#by-text", "nobody wrote this")
    assert count_shown(opened) == (0, 0)


def test_a_response_is_shown_token_by_token(opened):
    """`it is 4` in pieces of 2, 3 and 2 characters, with log-probs -0.5, -2 and -0.1: the second one is the darkest."""
    opened.page.select_option("#by-status", "=correct")
    tokens = opened.page.locator("#sample-list .response >> nth=0").locator(".token")
    assert tokens.all_inner_texts() == ["it", " is", " 4"]
    assert tokens.nth(1).get_attribute("title") == "token 2: log-prob -2, advantage 0.5"
    shades = tokens.evaluate_all("all => all.map(one => getComputedStyle(one).backgroundColor)")
    depths = [float(shade.rstrip(")").split(",")[3]) for shade in shades]
    assert depths == pytest.approx([0.083, 0.333, 0.017], abs=0.003)
    opened.page.select_option("#by-status", "=incorrect")
    other = opened.page.locator("#sample-list .token >> nth=0")
    assert other.evaluate("one => getComputedStyle(one).backgroundColor") != shades[0]


def test_what_a_model_wrote_is_read_and_not_obeyed(opened):
    opened.page.fill("#by-text", "onerror")
    text = opened.page.inner_text("#sample-list")
    assert "</script><img src=https://example.com/x onerror=alert(1)> ␀␛[31m" in text
    assert "980,000 more characters are in rollouts.jsonl" in text
    assert "(empty)" in text
    assert opened.page.locator("img").count() == 0


def test_another_prompt_s_history_can_be_chosen(opened):
    page = opened.page
    drawn = "document.getElementById('prompt-figure').data[0].x.join()"
    options = page.locator("#prompt-chooser option")
    assert options.count() == 40
    before = page.evaluate(drawn)
    names = options.all_inner_texts()
    page.select_option(
        "#prompt-chooser", index=next(i for i, n in enumerate(names) if "number 0?" in n)
    )
    after = page.evaluate(drawn)
    page.select_option(
        "#prompt-chooser", index=next(i for i, n in enumerate(names) if "number 10?" in n)
    )
    assert after == "1,5,9,13,17"  # ten prompts a step of forty
    assert page.evaluate(drawn) == "2,6,10,14,18"
    assert before


def test_it_is_dark_where_the_reader_s_screen_is_and_at_a_click(report, browser):
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    text = "document.querySelector('#accuracy-1 .xtick text').style.fill"
    with browser.open(report, scheme="dark") as opened:
        assert opened.page.evaluate(ground) == "rgb(20, 23, 27)"
        assert opened.page.evaluate(text) == "rgb(230, 233, 237)"
        opened.page.click("#theme")
        assert opened.page.evaluate(ground) == "rgb(255, 255, 255)"
        assert opened.page.evaluate(text) == "rgb(27, 31, 36)"
        opened.page.click("#theme")
        opened.page.emulate_media(media="print")  # paper is white
        opened.page.wait_for_function(f"{ground} === 'rgb(255, 255, 255)'")
        assert opened.page.locator(".filters").first.is_hidden()
        assert opened.marks("accuracy-1") > 0
        opened.require_quiet()


def test_it_fits_a_phone(report, browser):
    with browser.open(report, width=360) as opened:
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 360
        widths = opened.page.eval_on_selector_all(
            ".figure .main-svg", "all => all.map(one => one.getBoundingClientRect().right)"
        )
        assert max(widths) <= 360
        opened.require_quiet()


def test_a_run_that_has_only_begun_has_a_page_too(browser, tmp_path):
    (tmp_path / "status").mkdir()
    assert cli.main(["report", str(tmp_path)]) == 0
    with browser.open(tmp_path / "report.html") as opened:
        assert opened.page.locator("#notes p").count() == 3
        assert opened.figures() == []
        opened.require_quiet()
