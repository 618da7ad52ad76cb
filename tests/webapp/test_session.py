"""The session behind a tab, the list of scenes, and the command line."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image
from uploads import png

from envs.task import Scene
from worldmodel.app import main
from worldmodel.errors import UserError
from worldmodel.webapp import view
from worldmodel.webapp.scenes import scene_choices
from worldmodel.webapp.session import Session

ROOT = Path(__file__).parents[2]
SCENES = scene_choices()
Opened = Callable[..., Session]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """``opened(title, seed)``: a session that is closed after the test."""
    sessions = []

    def open_session(title: str, seed: int = 0) -> Session:
        sessions.append(Session(SCENES[title], seed, "cpu"))
        return sessions[-1]

    yield open_session
    for session in sessions:
        session.close()


@pytest.fixture
def session(opened: Opened) -> Session:
    return opened("Push-T")


# --------------------------------------------------------------------------------------- scenes
def test_scenes_of_all_registered_environments() -> None:
    titles = ["Push-T", "Maze, U", "Maze, medium", "Maze, random", "Chips"]
    assert [title for title in SCENES if title in titles] == titles
    assert SCENES["Maze, medium"].scene.env_kwargs == {"layout": "medium"}
    assert SCENES["Push-T"].env_id == "worldmodel/PushT-v0"


def test_scene_of_another_package() -> None:
    """An environment that declares scenes is listed; one that cannot be imported is skipped."""

    class Kitchen(gym.Env):  # type: ignore[type-arg]
        scenes = (Scene("Kitchen", hint="Drag the kettle."),)

    gym.register("Kitchen-v0", entry_point=Kitchen)
    gym.register("Broken-v0", entry_point="no_such_package:Env")
    try:
        assert scene_choices()["Kitchen"].scene.hint == "Drag the kettle."
    finally:
        del gym.registry["Kitchen-v0"], gym.registry["Broken-v0"]


def test_checkpoint_is_used_in_its_own_environment_only() -> None:
    choices = scene_choices("chips-open")
    first = next(iter(choices.values()))
    assert choices.keys() == SCENES.keys() and first.checkpoint == "chips-open"
    assert first.scene.title == "Chips" and first.scene.env_kwargs == {"rim": False}
    assert first.scene.steps == SCENES["Chips"].scene.steps
    assert choices["Push-T"] == SCENES["Push-T"]
    assert scene_choices("maze")["Maze, medium"].scene.env_kwargs == {"layout": "medium"}


# ------------------------------------------------------------------------------------- the goal
def test_dragging_changes_goal_state_and_goal_image(session: Session) -> None:
    before = session.goal
    block = session.task.in_image(session.drawn.goal_state[2:4])
    assert session.nearest_movable(block) == "block"
    session.move("block", (0.4, 0.6))
    state = session.goal_state
    assert state is not None
    assert session.task.in_image(state[2:4]) == pytest.approx((0.4, 0.6))
    assert (session.goal == session.task.render_state(state)).all()
    assert (session.goal != before).any()
    session.turn(90)
    assert session.degrees == pytest.approx(90)
    assert (session.obs["pixels"] == session.log.frames[0]).all(), "reality is not disturbed"


@pytest.mark.parametrize("place", [(0.5, 0.5), (0.0, 1.0), (0.97, 0.02)])
@pytest.mark.parametrize("name", ["block", "pusher"])
def test_dragged_objects_do_not_penetrate(
    session: Session, name: str, place: tuple[float, float]
) -> None:
    session.move(name, place)
    for angle in (0, 77, 180):
        session.turn(angle)
        session.task.set_state(session.goal_state)
        distance = session.task.data.contact.dist
        assert len(distance[distance < -1e-3]) == 0


def test_a_dragged_ball_stays_in_free_cells_of_the_same_maze(opened: Opened) -> None:
    session = opened("Maze, random", seed=3)
    for place in ((0.0, 0.0), (0.5, 0.5), (0.6, 0.3)):
        session.move("ball", place)
        assert session.goal_state is not None
        assert session.goal_state[4] == session.drawn.start_state[4]
        session.task.set_state(session.goal_state)
        assert not session.task.contact()


def test_chips_have_other_goals_but_nothing_to_drag(opened: Opened) -> None:
    session = opened("Chips")
    goal = session.goal
    assert session.nearest_movable((0.5, 0.5)) is None
    session.draw_task(1)
    assert (session.goal != goal).any()


def test_success_of_an_uploaded_goal_is_unknown(session: Session) -> None:
    session.upload((ROOT / "examples/goals/pusht.png").read_bytes(), "pusht.png")
    assert (session.goal == np.array(Image.open(ROOT / "examples/goals/pusht.png"))).all()
    assert "unknown" in session.outcome()
    session.move("block", (0.5, 0.5))
    assert "not reached yet" in session.outcome(), "a dragged goal has a state again"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not an image", "a.png is not a PNG image"),
        (png()[:80], "a.png is not an image that can be read"),
        (png()[:20], "a.png is not an image that can be read"),
        (png((64, 64)), "a.png is 64x64 pixels"),
        (png((9000, 9000)), "a.png is 9000x9000 pixels"),
        (png(mode="L"), "a.png has mode L"),
        (png() + bytes(6_000_000), "a.png has 6000"),
    ],
)
def test_bad_uploads_change_nothing(session: Session, content: bytes, message: str) -> None:
    before = session.goal
    with pytest.raises(UserError, match=re.escape(message)):
        session.upload(content, "a.png")
    assert session.goal is before and session.goal_state is not None


# ---------------------------------------------------------------------------------- guardrails
@pytest.mark.parametrize("title", SCENES)
def test_a_drawn_rectangle_is_a_region_in_metres(opened: Opened, title: str) -> None:
    session = opened(title)
    session.add_region((0.7, 0.2), (0.4, 0.3), margin=0.01)
    camera = session.task.model.camera("top")
    view_metres, middle = float(camera.fovy[0]), camera.pos[0]  # the workspace is square
    (rule,) = session.guardrails
    parts = re.fullmatch(r"no_go:x=(.*):(.*),y=(.*):(.*),margin=0.01", rule)
    assert parts
    expected = [middle + view_metres * share for share in (-0.1, 0.2, 0.2, 0.3)]
    assert [float(number) for number in parts.groups()] == pytest.approx(expected, abs=1e-4)
    (region, shaded), (margin, _) = session.regions()
    assert shaded and region.min(0) == pytest.approx((0.4, 0.2), abs=1e-3)
    assert region.max(0) == pytest.approx((0.7, 0.3), abs=1e-3)
    around = 0.01 / view_metres
    assert margin.min(0) == pytest.approx((0.4 - around, 0.2 - around), abs=1e-3)
    assert view.overlay(session).count("<polygon") == 2
    session.clear_regions()
    assert session.regions() == [] and view.overlay(session) == ""
    with pytest.raises(UserError, match="too small"):
        session.add_region((0.4, 0.2), (0.4, 0.3), margin=0.01)
    with pytest.raises(UserError, match="at least 0"):
        session.add_region((0.4, 0.2), (0.6, 0.3), margin=-1)


def test_from_image_inverts_in_image(session: Session) -> None:
    places = np.random.default_rng(0).uniform(size=(5, 2))
    assert session.task.in_image(session.task.from_image(places)) == pytest.approx(places)


def test_an_infeasible_guardrail_stops_the_robot_with_a_reason(opened: Opened) -> None:
    session = opened("Maze, U")
    session.add_region((0, 0), (1, 1), margin=0.0)
    session.begin(3)
    for _ in range(3):
        session.step()
    assert session.agent is not None and "no plan" in str(session.agent.stop_reason)
    assert session.log.interventions == [0, 1, 2]
    assert "stopped: no plan" in view.status_table(session, 3, running=False)


# ------------------------------------------------------------------------------------- the run
def test_a_goal_that_is_the_start_is_told(session: Session) -> None:
    session.begin(1)
    assert session.warnings == []
    session.set_goal(session.drawn.start_state)
    session.begin(1)
    (warning,) = session.warnings
    assert warning.startswith("the start already is a success")
    assert session.outcome().startswith("goal reached at the start; errors")


def test_run_restart_and_continue(opened: Opened) -> None:
    session = opened("Maze, U", seed=1)
    start = session.obs["pixels"]
    session.begin(7)
    for _ in range(7):
        session.step()
    assert session.agent is not None
    info = session.agent.info
    assert session.steps == 7 and len(session.log.frames) == 8
    assert session.log.plan_steps == list(range(0, 7, info.model.frameskip))
    assert session.path is not None and session.path.shape == (1 + info.horizon, 2)
    assert session.next_imagined == 0 and "errors: distance" in session.outcome()
    latest = session.obs["pixels"]
    session.begin(2)
    assert session.steps == 0 and (session.log.frames[0] == latest).all()
    session.restart()
    assert session.agent is None and (session.obs["pixels"] == start).all()


@pytest.mark.slow
def test_chips_show_the_planned_stroke(opened: Opened) -> None:
    session = opened("Chips")
    session.begin(1)
    session.step()
    stroke = session.task.in_image(session.log.actions[0].reshape(2, 2))
    assert session.path == pytest.approx(stroke, abs=1e-6)
    assert view.overlay(session).count("<polyline") == 2


def test_sessions_share_only_weights(opened: Opened) -> None:
    one, other = opened("Maze, U"), opened("Maze, U")
    assert one.model is other.model and one.encoder is other.encoder
    goal, pixels = other.goal.copy(), other.obs["pixels"].copy()
    one.move("ball", (0.3, 0.3))
    one.add_region((0.1, 0.1), (0.2, 0.2), margin=0.0)
    one.begin(2)
    one.step()
    assert (other.goal == goal).all() and (other.obs["pixels"] == pixels).all()
    assert other.guardrails == [] and other.steps == 0 and other.agent is None
    one.close()
    assert one.task._camera is None, "closing releases OpenGL"
    assert (other.task.render_state(other.goal_state) == goal).all()


# --------------------------------------------------------------------------------- the command
def test_bad_arguments_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, message in (
            (["--port", port], f"cannot listen on 127.0.0.1, port {port}"),
            (["--port", "0"], "port is 0"),
            (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
            (["--checkpoint", "nowhere"], "no checkpoint 'nowhere'"),
            (["--device", "tpu"], "device is 'tpu'"),
        ):
            assert main(arguments) == 2
            error = capsys.readouterr().err
            assert message in error and error.count("\n") == 1


@pytest.mark.slow
def test_without_nicegui_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['nicegui'] = None; import worldmodel.app as a; a.main([])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr == "error: the page needs NiceGUI: pip install 'worldmodel[app]'\n"
