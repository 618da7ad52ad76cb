"""The page in a real browser."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import started
from uploads import png

ROOT = Path(__file__).parents[2]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
# Containers, where tests run as root, have no sandbox.
CHROMIUM_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run") + tuple(
    f"--disable-{what}" for what in ("background-networking", "component-update", "sync")
)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a running server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "worldmodel.app", "--port", str(port)]
    # With this variable NiceGUI takes itself to be under test, and behaves differently.
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(command, cwd=ROOT, env=environment, **pipes) as server:
        assert server.stdout is not None
        yield server.stdout.readline().split()[1]
        server.terminate()
        _, output = server.communicate(timeout=30)
    assert "Traceback" not in output, output


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM:
        pytest.skip("no Chromium here: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


class Page:
    """A tab of the browser, and the requests it made."""

    def __init__(self, browser: Any, address: str) -> None:
        self.page = browser.new_page(viewport={"width": 1280, "height": 800})
        self.requests: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        for _ in range(100):  # the server prints its address before it listens
            try:
                urllib.request.urlopen(address).close()
                break
            except OSError:
                self.page.wait_for_timeout(100)
        self.page.goto(address)
        self.sees("goal not reached yet")

    def sees(self, text: str, seconds: float = 40) -> None:
        self.page.get_by_text(text).first.wait_for(timeout=1000 * seconds)

    def drag(self, picture: str, *places: tuple[float, float]) -> None:
        box = self.page.locator(f".{picture} img").bounding_box()
        mouse = self.page.mouse
        for at, (x, y) in enumerate(places):
            mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
            if at == 0:
                mouse.down()
        mouse.up()

    def fill(self, label: str, value: int) -> None:
        self.page.get_by_label(label).fill(str(value))

    def image(self, picture: str) -> str:
        return str(self.page.locator(f".{picture} img").get_attribute("src"))

    def changed(self, picture: str, before: str) -> None:
        self.page.wait_for_function(
            "([name, before]) => document.querySelector(`.${name} img`).src != before",
            arg=[picture, before],
        )


@pytest.mark.slow
def test_in_a_browser_goal_region_plan_and_upload(
    browser: Any, address: str, tmp_path: Path
) -> None:
    tab = Page(browser, address)
    goal = tab.image("goal")
    tab.drag("goal", (0.72, 0.42), (0.6, 0.5), (0.5, 0.5))
    tab.changed("goal", goal)
    tab.drag("reality", (0.05, 0.8), (0.1, 0.85), (0.2, 0.9))
    tab.sees("1 region(s)")
    assert tab.page.locator(".reality polygon").count() == 2  # and its margin
    reality = tab.image("reality")
    tab.fill("steps", 2)
    tab.page.get_by_role("button", name="Plan").click()
    tab.sees("2 of 2")
    tab.sees("done")
    tab.sees("made at step 0")
    tab.changed("reality", reality)
    tab.page.get_by_role("button", name="Reset").click()
    tab.sees("0 of 2")
    assert tab.image("reality") == reality

    bad, good = tmp_path / "bad.png", ROOT / "examples/goals/pusht.png"
    bad.write_bytes(png((64, 64)))
    goal = tab.image("goal")
    tab.page.set_input_files("input[type=file]", bad)
    tab.sees("bad.png is 64x64 pixels: this model takes 112x112")
    assert tab.image("goal") == goal
    tab.page.set_input_files("input[type=file]", good)
    tab.changed("goal", goal)
    tab.sees("an uploaded image does not tell")

    hosts = {url.split("/")[2] for url in tab.requests if not url.startswith("data:")}
    assert hosts == {address.removeprefix("http://")}, "nothing is fetched from elsewhere"
    tab.page.close()


@pytest.mark.slow
def test_in_a_browser_two_tabs_do_not_mix(browser: Any, address: str) -> None:
    one, other = Page(browser, address), Page(browser, address)
    before = one.image("reality"), one.image("goal")
    other.page.get_by_label("environment").click()
    other.page.get_by_role("option", name="Maze, U").click()
    other.sees("errors: distance")
    other.drag("reality", (0.3, 0.3), (0.35, 0.35), (0.4, 0.4))
    other.sees("1 region(s)")
    other.fill("steps", 30)
    other.page.get_by_role("button", name="Plan").click()
    other.sees("acting")
    one.fill("steps", 1)
    one.page.get_by_role("button", name="Plan").click()
    other.page.get_by_role("button", name="Stop").click()
    other.sees("done")
    one.sees("1 of 1")
    one.sees("0 region(s)")
    assert one.image("goal") == before[1]
    other.page.close()
    one.page.get_by_role("button", name="Reset").click()
    one.sees("0 of 1")
    assert one.image("reality") == before[0]
    one.page.close()
