"""The server that plans for robots: what they say, what they get, and what cannot break it."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from processes import started
from tiny import tiny_checkpoint
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from worldmodel import load
from worldmodel.deploy.robot_server import RobotServer, ServeConfig
from worldmodel.deploy.wire import pack, unpack
from worldmodel.errors import UserError

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
GOAL = RNG.integers(0, 255, (112, 112, 3), dtype=np.uint8)
PIXELS = RNG.integers(0, 255, (112, 112, 3), dtype=np.uint8)
PROPRIO = np.array([0.2, 0.3, 0, 0], np.float32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@contextlib.contextmanager
def serving(checkpoint: Path, **settings: Any) -> Iterator[RobotServer]:
    from worldmodel.control.config import AgentConfig

    agent = AgentConfig(samples=8, iterations=2, **settings.pop("agent", {}))
    server = RobotServer(ServeConfig(str(checkpoint), port=0, agent=agent, **settings))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(timeout=20)


@contextlib.contextmanager
def robot(server: RobotServer, **options: Any) -> Iterator[Any]:
    with connect(f"ws://127.0.0.1:{server.port}", compression=None, **options) as connection:
        assert unpack(connection.recv(timeout=20))["hold"] == [0.0, 0.0]
        yield connection


def ask(connection: Any, **message: Any) -> Any:
    connection.send(pack(message))
    answer = connection.recv(timeout=60)
    return answer if isinstance(answer, str) else unpack(answer)


def test_it_acts_as_the_agent_does(checkpoint: Path, tmp_path: Path) -> None:
    Image.fromarray(GOAL).save(tmp_path / "goal.png")
    agent = load(checkpoint, samples=8, iterations=2)
    agent.reset(GOAL)
    with serving(checkpoint, goal=tmp_path / "goal.png") as server, robot(server) as connection:
        for _ in range(7):  # more than one plan
            expected = agent.act({"pixels": PIXELS, "proprio": PROPRIO})
            answer = ask(connection, pixels=PIXELS, proprio=PROPRIO)
            np.testing.assert_array_equal(answer["actions"], expected[None])
            assert answer["stop_reason"] is None and answer["near"] == agent.info.near
            assert answer["distance"] == pytest.approx(float(agent.distance[0]))


def test_goals_and_images_of_any_size_come_from_the_robot(checkpoint: Path) -> None:
    with serving(checkpoint) as server, robot(server) as connection:
        assert "there is no goal: send one" in ask(connection, pixels=PIXELS, proprio=PROPRIO)
        large = np.repeat(np.repeat(PIXELS, 3, 0), 2, 1)
        assert ask(connection, goal=GOAL) == {}
        first = ask(connection, pixels=large, proprio=PROPRIO)
        again = ask(connection, pixels=large, proprio=PROPRIO, reset=True)
        np.testing.assert_array_equal(first["actions"], again["actions"])


def test_several_goals(checkpoint: Path, tmp_path: Path) -> None:
    """The robot stands at the first, so with "each" the second counts, with "any" the first."""
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    Image.fromarray(GOAL).save(tmp_path / "b.png")
    names = f"{tmp_path / 'a.png'},{tmp_path / 'b.png'}"
    distances = {}
    for reach in ("each", "any"):
        with serving(checkpoint, goal=names, reach=reach) as server, robot(server) as connection:
            answer = ask(connection, pixels=PIXELS, proprio=PROPRIO)
            assert answer["goals_left"] == 0
            distances[reach] = answer["distance"]
    assert distances["each"] > distances["any"] == 0


def test_a_goal_that_is_reached_already_is_told_once_an_episode(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(checkpoint) as server, robot(server) as connection:
        for message in ({"goal": GOAL}, {"reset": True}):
            ask(connection, pixels=GOAL, proprio=PROPRIO, **message)
            ask(connection, pixels=GOAL, proprio=PROPRIO)
            assert capsys.readouterr().err.count("warning: the start is near the goal") == 1


def test_robots_do_not_disturb_one_another(checkpoint: Path) -> None:
    with serving(checkpoint) as server, robot(server) as one, robot(server) as other:
        alone = ask(one, goal=GOAL, pixels=PIXELS, proprio=PROPRIO)["distance"]
        elsewhere = ask(other, goal=PIXELS, pixels=PIXELS, proprio=PROPRIO)["distance"]
        assert elsewhere < alone
        assert ask(one, pixels=PIXELS, proprio=PROPRIO, reset=True)["distance"] == alone


def test_a_repeated_frame_gets_the_same_answer_and_a_late_one_holds(checkpoint: Path) -> None:
    with serving(checkpoint) as server, robot(server) as connection:
        first = ask(connection, goal=GOAL, pixels=PIXELS, proprio=PROPRIO, time=5.0)
        moved = ask(connection, pixels=255 - PIXELS, proprio=PROPRIO, time=5.0)
        assert moved["distance"] == first["distance"]
        late = ask(connection, pixels=PIXELS, proprio=PROPRIO, time=4.0)
        assert "late frame" in late["stop_reason"] and not late["actions"].any()
        for step in range(1, 6):  # every fifth frame is encoded
            after = ask(connection, pixels=255 - PIXELS, proprio=PROPRIO, time=5.0 + 0.1 * step)
            assert after["stop_reason"] is None
            assert (after["distance"] != first["distance"]) == (step == 5)


def test_a_stale_camera_holds_the_robot(checkpoint: Path) -> None:
    with serving(checkpoint) as server, robot(server) as connection:
        ask(connection, goal=GOAL, pixels=PIXELS, proprio=PROPRIO)
        for step in range(1, 8):
            answer = ask(connection, pixels=PIXELS, proprio=PROPRIO + np.float32(0.05 * step))
        assert "stale" in answer["stop_reason"] and not answer["actions"].any()


def test_guardrails_hold_over_the_wire(checkpoint: Path) -> None:
    limits = {"guardrails": ("max_action:0.004",)}
    with serving(checkpoint, agent=limits) as server, robot(server) as connection:
        ask(connection, goal=GOAL)
        for _ in range(6):
            actions = ask(connection, pixels=PIXELS, proprio=PROPRIO)["actions"]
            assert (np.abs(actions) <= 0.004 + 1e-7).all()


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ([1, 2], "a message is a dict, not a list"),
        ({"image": PIXELS}, "the message has 'image': it may have pixels"),
        ({"pixels": "a photo", "proprio": PROPRIO}, "pixels is a str"),
        ({"pixels": PIXELS[0, 0], "proprio": PROPRIO}, "pixels, step 0: an image of shape (3,)"),
        ({"pixels": PIXELS, "proprio": PROPRIO, "time": "noon"}, "time is 'noon'"),
        ({"pixels": PIXELS}, "the message has no proprio, 4 numbers"),
        ({"pixels": PIXELS, "proprio": PROPRIO[:2]}, "proprio"),
        ({"pixels": PIXELS, "proprio": PROPRIO * np.nan}, "proprio"),
        ({"goal": GOAL, "steps": -3}, "steps is -3"),
    ],
)
def test_a_wrong_message_is_answered_and_the_next_one_works(
    checkpoint: Path, message: Any, error: str
) -> None:
    with serving(checkpoint) as server, robot(server) as connection:
        ask(connection, goal=GOAL)
        connection.send(pack(message))
        answer = connection.recv(timeout=20)
        assert answer.startswith("error: ") and error in answer and "\n" not in answer
        fine = ask(connection, goal=GOAL, pixels=PIXELS, proprio=PROPRIO)
        assert fine["actions"].shape == (1, 2)


@pytest.mark.slow
def test_a_thousand_lost_connections_and_broken_messages(checkpoint: Path) -> None:
    rng = np.random.default_rng(1)
    whole = pack({"pixels": PIXELS, "proprio": PROPRIO})
    with serving(checkpoint, robots=4) as server:
        for _ in range(500):  # lost at various points
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
                raw.sendall(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n"[: rng.integers(40)])
        with robot(server) as connection:
            for number in range(500):
                broken = bytearray(whole[: rng.integers(1, 400)])
                broken[rng.integers(len(broken))] ^= 0xFF
                connection.send(bytes(broken) if number % 3 else "text")
                answer = connection.recv(timeout=20)
                assert isinstance(answer, str) and answer.startswith("error: ")
            fine = ask(connection, goal=GOAL, pixels=PIXELS, proprio=PROPRIO)
            assert fine["actions"].shape == (1, 2)


def test_only_so_many_robots_and_a_place_is_free_again(checkpoint: Path) -> None:
    with serving(checkpoint, robots=1) as server:
        with robot(server):
            with connect(f"ws://127.0.0.1:{server.port}") as second:
                with pytest.raises(ConnectionClosed, match="1 robots are connected"):
                    second.recv(timeout=20)
        for _ in range(50):  # the server notices the end a little later
            with contextlib.suppress(ConnectionClosed), robot(server) as connection:
                assert ask(connection, goal=GOAL) == {}
                return
        pytest.fail("the place of a robot that left stays taken")


def test_a_token_and_the_health(checkpoint: Path) -> None:
    with serving(checkpoint, token="secret") as server:
        address = f"ws://127.0.0.1:{server.port}"
        for headers in ({}, {"Authorization": "Api-Key other"}):
            with (
                pytest.raises(InvalidStatus, match="401"),
                connect(address, additional_headers=headers),
            ):
                pass
        with robot(server, additional_headers={"Authorization": "Api-Key secret"}) as connection:
            assert ask(connection, goal=GOAL) == {}
        health = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        health.request("GET", "/healthz")
        assert health.getresponse().read() == b"OK\n"


def test_listening_to_other_machines_needs_a_token(checkpoint: Path) -> None:
    with pytest.raises(UserError, match="other machines can reach: give a --token"):
        RobotServer(ServeConfig(str(checkpoint), host="0.0.0.0", port=0))
    with pytest.raises(UserError, match="cannot listen on 127.0.0.1"):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            RobotServer(ServeConfig(str(checkpoint), port=taken.getsockname()[1]))


@pytest.mark.slow
def test_the_example_holds_the_robot_when_the_server_goes(checkpoint: Path, tmp_path: Path) -> None:
    Image.fromarray(GOAL).save(tmp_path / "goal.png")
    client = [sys.executable, str(ROOT / "examples/robot_client.py")]
    with contextlib.ExitStack() as stack:
        with serving(checkpoint, goal=tmp_path / "goal.png") as server:
            address = f"ws://127.0.0.1:{server.port}"
            done = subprocess.run(
                [*client, address, "3"], capture_output=True, text=True, timeout=60, check=True
            )
            lines = done.stdout.splitlines()
            assert len(lines) == 4 and lines[-1] == "action [0. 0.]"
            endless = stack.enter_context(
                started([*client, address, "1000"], stdout=subprocess.PIPE)
            )
            assert endless.stdout is not None and endless.stdout.readline().startswith("action")
        output, _ = endless.communicate(timeout=60)
        assert endless.returncode != 0 and output.splitlines()[-1] == "action [0. 0.]"


@given(
    arrays.arrays(
        st.sampled_from([np.uint8, np.float32, np.float64, np.int64, np.bool_]),
        arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    )
)
def test_arrays_survive_the_wire(array: np.ndarray[Any, Any]) -> None:
    found = unpack(pack({"x": [array, 3, "text", None]}))["x"]
    np.testing.assert_array_equal(found[0], array)
    assert found[0].dtype == array.dtype and found[1:] == [3, "text", None]


@given(st.text(max_size=6), st.lists(st.integers(-3, 2**70), max_size=3), st.binary(max_size=9))
def test_nothing_but_a_user_error_comes_of_a_wrong_array(
    dtype: str, shape: list[int], data: bytes
) -> None:
    packed = {b"__ndarray__": True, b"data": data, b"dtype": dtype}
    packed[b"shape"] = [min(n, 2**63) for n in shape]
    with contextlib.suppress(UserError):
        unpack(msgpack.packb(packed))


@given(st.binary(max_size=40))
def test_nothing_but_a_user_error_comes_of_noise(data: bytes) -> None:
    with contextlib.suppress(UserError):
        unpack(data)


@pytest.mark.parametrize(
    ("dtype", "shape", "data"),
    [("O", [1], b"12345678"), ("<f4", [3], b"1234"), ("<f4", [-1], b"1234"), ("zz", [1], b"1")],
)
def test_arrays_that_are_none_are_refused(dtype: str, shape: list[int], data: bytes) -> None:
    packed = {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}
    with pytest.raises(UserError, match="the message is no msgpack"):
        unpack(msgpack.packb({"pixels": packed}))
