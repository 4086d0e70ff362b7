"""Debian's Chromium, without a window, for pages that the package writes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

LIMIT_MS = 120_000


@dataclass
class OpenPage:
    """A page, and what it complained about or asked for since it was opened."""

    page: Any
    path: Path
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def marks(self, figure: str) -> int:
        """What is drawn in a figure: points and lines, areas, bars, cells; an empty frame has none."""
        self.page.wait_for_selector(f"#{figure} .main-svg", state="attached", timeout=LIMIT_MS)
        drawn = "path.js-line, path.js-fill, path.point, .point path, .hm image, image"
        return self.page.locator(f"#{figure} .overplot").locator(drawn).count()

    def figures(self) -> list[str]:
        return self.page.eval_on_selector_all(".figure", "all => all.map(one => one.id)")

    def require_quiet(self) -> None:
        """No error or warning, and nothing asked for but the file itself."""
        assert self.complaints == []
        outside = [url for url in self.requests if not url.startswith(("data:", "blob:"))]
        assert outside == [self.path.as_uri()]


class Browser:
    def __init__(self, chromium: Any) -> None:
        self._chromium = chromium

    @contextmanager
    def open(self, path: Path, *, width: int = 1200, scheme: str = "light") -> Iterator[OpenPage]:
        context = self._chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        context.set_default_timeout(LIMIT_MS)
        opened = OpenPage(context.new_page(), path)
        opened.page.on("console", lambda said: opened.complaints.append(said.text))
        opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        try:
            opened.page.goto(path.as_uri(), wait_until="load", timeout=LIMIT_MS)
            yield opened
        finally:
            context.close()


@contextmanager
def start_browser() -> Iterator[Browser]:
    """Skips the test where there is no Chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no Chromium here (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, timeout=LIMIT_MS)
        try:
            yield Browser(chromium)
        finally:
            chromium.close()
