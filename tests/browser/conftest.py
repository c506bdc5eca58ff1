"""Chromium beside a P-CSCF, in its network namespace; pictures of what it showed go to .screenshots/."""

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, Playwright, sync_playwright

from tests.interop.plant import ROOT, Plant, plant

CHROMIUM = Path("/usr/bin/chromium")
PICTURES = ROOT / ".screenshots"
URL = "http://127.0.0.1:8060/"
WIDE = {"width": 1280, "height": 1000}

Opener = Callable[..., Page]


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as made:
        yield made


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """In a thread of its own: Playwright's event loop runs in this one, and the namespaces are made with another."""
    made = plant(tmp_path_factory.mktemp("plant"))
    with ThreadPoolExecutor(1) as apart:
        yield apart.submit(made.__enter__).result()
        apart.submit(made.__exit__, None, None, None).result()


@contextmanager
def browsing(playwright: Playwright, folder: Path, command: Sequence[str]) -> Iterator[Callable[..., Page]]:
    """A browser started by a command; what it gives opens pages. A page that complains on its console fails."""
    assert CHROMIUM.exists(), "install chromium"
    wrapper = folder / "chromium"
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    wrapper.chmod(0o755)
    complaints: list[str] = []
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    browser = playwright.chromium.launch(executable_path=str(wrapper), args=options)

    def opened(url: str = URL, *, quiet: bool = True, **context: object) -> Page:
        page = browser.new_context(**{"viewport": WIDE, "accept_downloads": True, **context}).new_page()  # type: ignore[arg-type]
        if quiet:
            page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        return page

    try:
        yield opened
    finally:
        browser.close()
    assert not complaints, complaints


@pytest.fixture
def opened(playwright: Playwright, running: Plant, tmp_path: Path) -> Iterator[Opener]:
    """Opens the dashboard of the plant."""
    command = running.network.command("pcscf", str(CHROMIUM))
    with browsing(playwright, tmp_path, command) as made:
        yield made


def picture(page: Page, name: str) -> None:
    """Keep what the page shows now."""
    page.screenshot(path=PICTURES / f"{name}.png", animations="disabled")
