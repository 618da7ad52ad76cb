"""The page's events and widgets, without a browser: NiceGUI simulates one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from uploads import png

pytest.importorskip("nicegui", reason="pip install 'worldmodel[app]'")
from nicegui import ui  # noqa: E402
from nicegui.testing import User, user_simulation  # noqa: E402

from worldmodel.webapp.page import Tab  # noqa: E402
from worldmodel.webapp.scenes import scene_choices  # noqa: E402

GOAL = Path(__file__).parents[2] / "examples/goals/pusht.png"


def simulate(scenario: Callable[[User, Tab], Awaitable[None]]) -> None:
    """Run `scenario` with a simulated user who has just opened the page."""

    async def run() -> None:
        tabs = []

        async def page() -> None:
            tabs.append(Tab(scene_choices(), "cpu"))
            await ui.context.client.connected()
            await tabs[0].open()

        async with user_simulation(root=page) as user:
            await user.open("/")
            await until(lambda: bool(tabs) and tabs[0].session is not None)
            await user.should_see("Press Plan", retries=50)
            with user:
                await scenario(user, tabs[0])
            tabs[0].close()

    asyncio.run(run())


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for a condition."""
    for _ in range(int(seconds / 0.05)):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise TimeoutError


def mouse(kind: str, x: int, y: int, pressed: bool = True) -> Any:
    """A mouse event at a pixel."""
    return SimpleNamespace(type=f"mouse{kind}", image_x=x, image_y=y, buttons=int(pressed))


async def drag(handler: Callable[[Any], Awaitable[None]], *pixels: tuple[int, int]) -> None:
    """Press the mouse at the first pixel, move it over the others, and release it."""
    await handler(mouse("down", *pixels[0]))
    for pixel in pixels[1:]:
        await handler(mouse("move", *pixel))
    await handler(mouse("up", *pixels[-1], pressed=False))


def upload(content: bytes, name: str) -> Any:
    """An upload event."""

    async def read() -> bytes:
        return content

    file = SimpleNamespace(size=lambda: len(content), read=read, name=name)
    return SimpleNamespace(file=file)


@pytest.mark.slow
def test_goal_region_plan_reset_and_upload() -> None:
    async def scenario(user: User, tab: Tab) -> None:
        session, layout = tab.session, tab.layout
        assert session is not None and layout.angle.visible
        goal, start = session.goal, session.log.frames[0]
        await drag(tab.drag, (80, 47), (67, 56), (56, 56))
        assert (session.goal != goal).any() and "data:image/png" in layout.goal.source
        await drag(tab.draw, (6, 90), (11, 95), (22, 100))
        assert len(session.guardrails) == 1 and layout.reality.content.count("<polygon") == 2
        await drag(tab.draw, (6, 90), (6, 90))
        await user.should_see("the rectangle is too small")
        assert "1 region(s)" in layout.status.content

        layout.count.value = 2
        await tab.act()
        assert "2 of 2" in layout.status.content and "done" in layout.status.content
        assert "made at step 0" in layout.imagination.text
        assert layout.frames.content.count("<img") == session.info.horizon
        assert "polyline" in layout.reality.content
        await tab.restart()
        assert "0 of 2" in layout.status.content and (session.obs["pixels"] == start).all()

        goal = session.goal
        await tab.upload(upload(png((64, 64)), "bad.png"))
        await user.should_see("bad.png is 64x64 pixels")
        assert session.goal is goal
        await tab.upload(upload(GOAL.read_bytes(), "good.png"))
        assert (session.goal != goal).any() and "unknown" in layout.status.content
        await tab.clear()
        assert session.guardrails == []

    simulate(scenario)


@pytest.mark.slow
def test_stop_ends_a_run_and_settings_are_locked_during_it() -> None:
    async def scenario(user: User, tab: Tab) -> None:
        tab.layout.pick.value = "Maze, U"
        await until(lambda: tab.session is not None and "ball" in tab.session.movable)
        await until(lambda: not tab.opening)
        session = tab.session
        assert session is not None and not tab.layout.angle.visible
        run = asyncio.ensure_future(tab.act())
        await until(lambda: session.steps >= 2)
        goal = session.goal
        await drag(tab.drag, (30, 30), (60, 60))
        await drag(tab.draw, (6, 90), (22, 100))
        assert session.goal is goal and session.guardrails == [] and not tab.layout.plan.enabled
        tab.halt()
        await run
        assert session.steps < 50 and "done" in tab.layout.status.content
        assert tab.layout.plan.enabled

    simulate(scenario)
