"""A server that plans for robots over websockets, with messages as in openpi's policy server.

A robot connects, receives the server's metadata, sends observations and receives actions: see
`RobotSession`. An error is answered with a string, ``error: ...``, and the connection stays open.
Every connection is an episode of its own; they share the weights, and compute one after another.
``GET /healthz`` answers ``OK``.

What holds the robot:

- no feasible plan, a stale camera, a missed deadline, a lasting surprise: the answer's action is
  the hold action, and ``stop_reason`` says why;
- a lost connection, or no answer in time: the robot itself, with the hold action of the metadata.
  ``examples/robot_client.py`` does so.
"""

from __future__ import annotations

import hmac
import http
import ipaddress
import logging
import socket
import threading
from dataclasses import dataclass, field
from typing import Any, ClassVar

from worldmodel.agent import Agent
from worldmodel.cli import warn
from worldmodel.cli.device import pick_device
from worldmodel.control.config import AgentConfig, PlannerConfig
from worldmodel.control.goal_warnings import goal_warnings
from worldmodel.control.guardrails import parse_rules
from worldmodel.control.observations import check_reach
from worldmodel.data.images import load_images
from worldmodel.deploy.robot_session import RobotSession
from worldmodel.deploy.wire import pack, unpack
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import load_checkpoint

LARGEST_MESSAGE = 32_000_000  # bytes
SILENCE = 10.0  # seconds without a sign of life after which a connection is closed


@dataclass(frozen=True)
class ServeConfig:
    """What to serve, and where."""

    SHORT: ClassVar = {"planner": "planner.name", "guardrail": "agent.guardrails"}

    checkpoint: str
    """Bundled name, folder or hf:USER/NAME."""
    goal: str | None = None
    """Goal image of robots that send none; or a frame of a video, as demo.mp4@12.5s. Or several of
    either: a.png,b.png."""
    reach: str = "each"
    """Which of several goals to reach: each, in their order, or any, the one that is cheapest."""
    host: str = "127.0.0.1"
    """Address to listen on. Any other than this machine's own needs a --token."""
    port: int = 8000
    """Port to listen on; 0 chooses a free one."""
    token: str = ""
    """Secret that robots send, as the header "Authorization: Api-Key TOKEN"."""
    robots: int = 16
    """Most connections at once."""
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    """Which planner searches. --planner mppi is short for --planner.name mppi."""
    agent: AgentConfig = field(default_factory=AgentConfig)
    """How the agent plans and acts; --agent.budget_ms 60 keeps to a rate of 10 Hz. --guardrail RULE
    is short for --agent.guardrails RULE."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UserError(f"port is {self.port}: it must be 0 to 65535")
        if self.robots < 1:
            raise UserError(f"robots is {self.robots}: it must be at least 1")
        check_reach(self.reach)
        parse_rules(self.agent.guardrails)


class RobotServer:
    """Serves until `close`.

    Raises:
        UserError: a package is missing; an unusable checkpoint, goal, guardrail or address.
    """

    def __init__(self, config: ServeConfig) -> None:
        try:
            import msgpack  # noqa: F401
            from websockets.sync.server import serve
        except ImportError as error:
            raise UserError(
                f"the server needs {error.name}: pip install 'worldmodel[serve]'"
            ) from None
        self.config = config
        self.parts = load_checkpoint(config.checkpoint)
        info = self.parts[2]
        device = pick_device(config.device)
        for part in self.parts[:2]:
            part.to(device)
        self.goal = None
        if config.goal is not None:
            self.goal = load_images(config.goal, info.image_size, info.fit)
        agent = self._agent()  # so that wrong settings show here
        if self.goal is not None:
            agent.reset(self.goal, reach=config.reach)
            for sentence in goal_warnings(agent.perception):
                warn(sentence)
        hold = info.hold if isinstance(info.hold, str | None) else list(info.hold)
        self.metadata = {
            "checkpoint": config.checkpoint,
            "env": info.env_id,
            "image_size": info.image_size,
            "proprio_names": list(info.proprio_names),
            "action_names": list(info.action_names),
            "action_choices": list(info.choices),
            "action_low": agent.layout.low.cpu().numpy(),
            "action_high": agent.layout.high.cpu().numpy(),
            "hold": hold,
            "guardrails": list(config.agent.guardrails),
        }
        self._computing = threading.Lock()
        self._free = threading.Semaphore(config.robots)
        _check_host(config)
        logging.getLogger("websockets").setLevel(logging.CRITICAL)  # scans and lost connections
        try:
            self.server = serve(
                self._handle,
                config.host,
                config.port,
                process_request=self._admit,
                compression=None,
                max_size=LARGEST_MESSAGE,
                ping_interval=SILENCE / 2,
                ping_timeout=SILENCE / 2,
            )
        except OSError as error:
            raise UserError(
                f"cannot listen on {config.host}, port {config.port} "
                f"({error.strerror or error}): give another --port or --host"
            ) from None
        self.port = int(self.server.socket.getsockname()[1])

    def run(self) -> None:
        """Serve until `close`, in this thread."""
        self.server.serve_forever()

    def close(self) -> None:
        """Stop listening."""
        self.server.shutdown()

    def _agent(self) -> Agent:
        return Agent(*self.parts, self.config.planner.make(), self.config.agent)

    def _admit(self, connection: Any, request: Any) -> Any:
        """The answer to a request that is refused or asks for the server's health."""
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        given, token = request.headers.get("Authorization", ""), self.config.token
        if token and not hmac.compare_digest(given.encode(), f"Api-Key {token}".encode()):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "wrong or missing token\n")
        return None

    def _handle(self, connection: Any) -> None:
        """Answer one robot until it goes."""
        from websockets.exceptions import ConnectionClosed

        if not self._free.acquire(blocking=False):
            connection.close(1013, f"{self.config.robots} robots are connected: try again later")
            return
        session = None
        try:
            connection.send(pack(self.metadata))
            for data in connection:
                session = session or RobotSession(self._agent(), self.goal, self.config.reach)
                connection.send(self._reply(session, data))
        except ConnectionClosed:
            pass  # the robot holds by itself
        finally:
            self._free.release()

    def _reply(self, session: RobotSession, data: bytes | str) -> bytes | str:
        try:
            if isinstance(data, str):
                raise UserError("the message is text: send msgpack")
            message = unpack(data)
            with self._computing:
                return pack(session.answer(message))
        except UserError as error:
            return f"error: {' '.join(str(error).split())}"


def _check_host(config: ServeConfig) -> None:
    try:
        addresses = {found[4][0] for found in socket.getaddrinfo(config.host, config.port)}
    except OSError as error:
        raise UserError(f"there is no host {config.host!r} ({error})") from None
    if not config.token and not all(ipaddress.ip_address(a).is_loopback for a in addresses):
        raise UserError(
            f"host is {config.host}, which other machines can reach: give a --token, too"
        )
