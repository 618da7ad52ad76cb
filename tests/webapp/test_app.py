"""The page: its session, and the page itself in a real browser."""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from processes import started

from worldmodel.errors import UserError
from worldmodel.webapp.page import WORLDS, Session, World, main, worlds_with

ROOT = Path(__file__).parents[2]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
# No sandbox: containers, where tests run as root, have none to offer.
CHROMIUM_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run") + tuple(
    f"--disable-{what}" for what in ("background-networking", "component-update", "sync")
)


@pytest.fixture
def session() -> Iterator[Session]:
    session = Session(WORLDS["Push-T"])
    yield session
    session.close()


def png(size: tuple[int, int] = (112, 112), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, "white").save(buffer, "PNG")
    return buffer.getvalue()


# ------------------------------------------------------------------------------------- the goal
def test_a_dragged_block_is_the_goals_state_and_image(session: Session) -> None:
    before = session.goal
    assert session.nearest_thing(session.sim.in_image(session.task.goal_state[2:4]))
    session.move("block", (0.4, 0.6))
    state = session.goal_state
    assert state is not None
    assert session.sim.in_image(state[2:4]) == pytest.approx((0.4, 0.6))
    assert (session.goal == session.sim.render_state(state)).all()
    assert (session.goal != before).any()
    session.turn(90)
    assert session.degrees == pytest.approx(90)
    assert (session.obs["pixels"] == session.log.frames[0]).all(), "reality is not disturbed"


@pytest.mark.parametrize("place", [(0.5, 0.5), (0.0, 1.0), (0.97, 0.02)])
@pytest.mark.parametrize("thing", ["block", "pusher"])
def test_nothing_is_dragged_into_a_wall_or_another_thing(
    session: Session, thing: str, place: tuple[float, float]
) -> None:
    session.move(thing, place)
    world = session.sim
    for angle in (0, 77, 180):
        session.turn(angle)
        world.set_state(session.goal_state)
        deepest = world.data.contact.dist[world.data.contact.dist < -1e-3]
        assert len(deepest) == 0


def test_a_dragged_ball_lies_in_a_free_cell_of_the_same_maze() -> None:
    session = Session(WORLDS["Maze, random"], seed=3)
    world = session.sim
    for place in ((0.0, 0.0), (0.5, 0.5), (0.6, 0.3)):
        session.move("ball", place)
        assert session.goal_state is not None
        assert session.goal_state[4] == session.task.start_state[4]
        world.set_state(session.goal_state)
        assert not world.contact()
    session.close()


def test_chips_have_nothing_to_drag_but_other_goals() -> None:
    session = Session(WORLDS["Chips"])
    goal = session.goal
    assert session.nearest_thing((0.5, 0.5)) is None
    session.draw_task(1)
    assert (session.goal != goal).any()
    session.close()


def test_an_uploaded_goal_is_taken_and_not_judged(session: Session) -> None:
    session.upload((ROOT / "examples/goals/pusht.png").read_bytes(), "pusht.png")
    assert (session.goal == np.array(Image.open(ROOT / "examples/goals/pusht.png"))).all()
    assert "not known" in session.verdict()
    session.move("block", (0.5, 0.5))
    assert "not reached yet" in session.verdict(), "what is dragged is known again"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"not an image", "a.png is not a PNG image"),
        (png()[:80], "a.png is not an image that can be read"),
        (png()[:20], "a.png is not an image that can be read"),
        (png((64, 64)), "a.png is 64x64 pixels: this model sees 112x112"),
        (png((9000, 9000)), "a.png is 9000x9000 pixels"),
        (png(mode="L"), "a.png has mode L"),
        (png() + bytes(6_000_000), "a.png has 6000"),
    ],
)
def test_bad_uploads_change_nothing(session: Session, content: bytes, said: str) -> None:
    before = session.goal
    with pytest.raises(UserError, match=re.escape(said)):
        session.upload(content, "a.png")
    assert session.goal is before and session.goal_state is not None


# ---------------------------------------------------------------------------------- guardrails
@pytest.mark.parametrize("name", WORLDS)
def test_a_drawn_rectangle_is_forbidden_in_metres_and_drawn_where_it_was(name: str) -> None:
    session = Session(WORLDS[name])
    session.add_region((0.7, 0.2), (0.4, 0.3), margin=0.01)
    world = session.sim
    view = float(world.model.camera("top").fovy[0])
    middle = world.model.camera("top").pos[0]  # as far from below as from the left
    (rule,) = session.guardrails
    said = re.fullmatch(r"no_go:x=(.*):(.*),y=(.*):(.*),margin=0.01", rule)
    assert said
    expected = [middle + view * share for share in (-0.1, 0.2, 0.2, 0.3)]
    assert [float(number) for number in said.groups()] == pytest.approx(expected, abs=1e-4)
    (region, shaded), (margin, _) = session.regions()
    assert shaded and region.min(0) == pytest.approx((0.4, 0.2), abs=1e-3)
    assert region.max(0) == pytest.approx((0.7, 0.3), abs=1e-3)
    assert margin.min(0) == pytest.approx((0.4 - 0.01 / view, 0.2 - 0.01 / view), abs=1e-3)
    session.clear_regions()
    assert session.regions() == []
    with pytest.raises(UserError, match="no rectangle"):
        session.add_region((0.4, 0.2), (0.4, 0.3), margin=0.01)
    with pytest.raises(UserError, match="at least 0"):
        session.add_region((0.4, 0.2), (0.6, 0.3), margin=-1)
    session.close()


def test_image_and_table_are_one_anothers_inverse(session: Session) -> None:
    world = session.sim
    places = np.random.default_rng(0).uniform(size=(5, 2))
    assert world.in_image(world.from_image(places)) == pytest.approx(places)


def test_a_guardrail_that_cannot_be_kept_stops_the_robot_and_says_why() -> None:
    session = Session(WORLDS["Maze, U"])
    session.add_region((0, 0), (1, 1), margin=0.0)
    session.begin(3)
    for _ in range(3):
        session.step()
    assert session.agent is not None and "no plan" in str(session.agent.stop_reason)
    assert session.log.interventions == [0, 1, 2]
    session.close()


# ------------------------------------------------------------------------------------- the run
def test_a_session_acts_restarts_and_goes_on_from_where_it_is() -> None:
    session = Session(WORLDS["Maze, U"], seed=1)
    start = session.obs["pixels"]
    session.begin(7)
    for _ in range(7):
        session.step()
    assert session.steps == 7 and session.log.plan_steps == [0, 5] and len(session.log.frames) == 8
    assert session.path is not None and session.path.shape == (7, 2)  # now, and the horizon of 6
    assert session.reached == 0 and "off by: distance" in session.verdict()
    there = session.obs["pixels"]
    session.begin(2)
    assert session.steps == 0 and (session.log.frames[0] == there).all()
    session.restart()
    assert session.agent is None and (session.obs["pixels"] == start).all()
    session.close()


def test_two_sessions_share_weights_and_nothing_else() -> None:
    one, other = Session(WORLDS["Maze, U"]), Session(WORLDS["Maze, U"])
    assert one.model is other.model and one.encoder is other.encoder
    goal, pixels = other.goal.copy(), other.obs["pixels"].copy()
    one.move("ball", (0.3, 0.3))
    one.add_region((0.1, 0.1), (0.2, 0.2), margin=0.0)
    one.begin(2)
    one.step()
    assert (other.goal == goal).all() and (other.obs["pixels"] == pixels).all()
    assert other.guardrails == [] and other.steps == 0 and other.agent is None
    one.close()
    assert one.sim._camera is None, "it lets go of OpenGL"
    assert (other.sim.render_state(other.goal_state) == goal).all()
    other.close()


# --------------------------------------------------------------------------------- the command
def test_a_checkpoint_replaces_the_bundled_one_of_its_environment_alone() -> None:
    worlds = worlds_with("chips-open")
    assert next(iter(worlds)) == "Chips" and worlds.keys() == WORLDS.keys()
    assert worlds["Chips"] == World(
        WORLDS["Chips"].env_id,
        WORLDS["Chips"].hint,
        WORLDS["Chips"].robot,
        {"rim": False},
        10,
        checkpoint="chips-open",
    )
    assert worlds["Push-T"] is WORLDS["Push-T"]
    assert worlds_with("maze")["Maze, medium"].env_kwargs == {"layout": "medium"}


def test_bad_arguments_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, said in (
            (["--port", port], f"cannot listen on 127.0.0.1, port {port}"),
            (["--port", "0"], "port is 0"),
            (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
            (["--checkpoint", "nowhere"], "no checkpoint 'nowhere'"),
        ):
            assert main(arguments) == 2
            error = capsys.readouterr().err
            assert said in error and error.count("\n") == 1


@pytest.mark.slow
def test_without_nicegui_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['nicegui'] = None; import worldmodel.app as a; a.main([])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr == "error: the page needs NiceGUI: pip install 'worldmodel[app]'\n"


# ---------------------------------------------------------------------------------- the browser
@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a real server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "worldmodel.app", "--port", str(port)]
    # NiceGUI behaves otherwise in tests of its own kind, and knows them by this variable.
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(command, cwd=ROOT, env=environment, **pipes) as server:
        assert server.stdout is not None
        yield server.stdout.readline().split()[1]
        server.terminate()
        _, said = server.communicate(timeout=30)
    assert "Traceback" not in said, said


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
    """A tab of a browser, and what it asked the network for."""

    def __init__(self, browser: Any, address: str) -> None:
        self.page = browser.new_page(viewport={"width": 1280, "height": 800})
        self.requests: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        for _ in range(100):  # the server says where it is before it listens
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
    tab.sees("bad.png is 64x64 pixels: this model sees 112x112")
    assert tab.image("goal") == goal
    tab.page.set_input_files("input[type=file]", good)
    tab.changed("goal", goal)
    tab.sees("the state that an uploaded image shows is not known")

    hosts = {url.split("/")[2] for url in tab.requests if not url.startswith("data:")}
    assert hosts == {address.removeprefix("http://")}, "nothing is fetched from elsewhere"
    tab.page.close()


@pytest.mark.slow
def test_in_a_browser_two_tabs_do_not_mix(browser: Any, address: str) -> None:
    one, other = Page(browser, address), Page(browser, address)
    before = one.image("reality"), one.image("goal")
    other.page.get_by_label("environment").click()
    other.page.get_by_role("option", name="Maze, U").click()
    other.sees("off by: distance")
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
