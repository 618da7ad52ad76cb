"""One tab's environment, task, agent and log. No user interface."""

from __future__ import annotations

import functools
import io
import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

import planners
from envs.task import task_of
from planners import Trajectory
from worldmodel.agent import Agent
from worldmodel.cli.device import pick_device
from worldmodel.control.config import AgentConfig
from worldmodel.control.goal_warnings import goal_warnings
from worldmodel.control.guardrails import parse_rules
from worldmodel.control.hold import task_hold
from worldmodel.data.images import read_image
from worldmodel.errors import UserError
from worldmodel.measure.environments import check_fits, make_env
from worldmodel.measure.episode import EpisodeLog, act_once
from worldmodel.measure.film import guardrail_regions
from worldmodel.measure.outcomes import episode_outcome
from worldmodel.measure.tasks import sample_tasks
from worldmodel.models.checkpoint import bundled_for, load_checkpoint
from worldmodel.models.decoder import load_decoder
from worldmodel.webapp.scenes import SceneChoice

Array = NDArray[Any]
GOAL_OFFSET = 25  # steps from the start to the goal, as in evaluations
LARGEST_UPLOAD = 5_000_000  # bytes
SMALLEST_REGION = 0.01  # of the image's side; a smaller rectangle is an accidental click

_loading = threading.Lock()


@functools.cache
def _load(checkpoint: str, device: str) -> tuple[Any, ...]:
    """Model, encoder, info, and the decoder or None. All tabs share them; nothing changes them."""
    target = pick_device(device)
    model, encoder, info = load_checkpoint(checkpoint)
    decoder = load_decoder(checkpoint, model, info)
    return (
        model.to(target),
        encoder.to(target),
        info,
        None if decoder is None else decoder.to(target),
    )


class Session:
    """An environment, its task, guardrails and agent: the data behind one tab.

    An OpenGL context belongs to one thread: make a session and call its methods in the same thread.
    Places are fractions of the image's width and height, from the left and from the top.

    Attributes:
        goal: the goal image, uint8 ``[H, W, 3]``.
        goal_state: state ``[Ds]`` of the goal, used for success alone; None for an uploaded image.
        guardrails: rules, as on the command line.
        agent: None before `begin`.
        log: of the current run.
        warnings: about the goal of the current run.
        imagined: predicted frames of the current plan ``[T, H, W, 3]``, or None.
        path: predicted path of the robot, or the planned stroke, places ``[n, 2]``; or None.

    Raises:
        UserError: the checkpoint, the device or the seed is unusable.
    """

    def __init__(self, choice: SceneChoice, seed: int = 0, device: str = "auto") -> None:
        self.choice = choice
        with _loading:  # two tabs that open at once load a checkpoint once
            name = choice.checkpoint or bundled_for(choice.env_id)
            self.model, self.encoder, self.info, self.decoder = _load(name, device)
        self.env = make_env(choice.env_id, choice.scene.env_kwargs, self.info.image_size)
        check_fits(self.env, self.info)
        self.task = task_of(self.env)
        names = list(self.task.state_names)
        self.movable = {name: names.index(x) for name, x in self.task.movable.items()}
        self.turnable = None if self.task.turnable is None else names.index(self.task.turnable)
        self.guardrails: list[str] = []
        self.draw_task(seed)

    def draw_task(self, seed: int) -> None:
        """Take the start and goal of a seed, the same as in evaluations."""
        self.drawn = sample_tasks(self.env, 1, seed, GOAL_OFFSET)[0]
        self.seed = seed
        self.restart()
        self.set_goal(self.drawn.goal_state)

    def restart(self) -> None:
        """Put the environment back to the start. Goal and guardrails stay."""
        options = {"state": self.drawn.start_state}
        self.obs, info = self.env.reset(seed=self.drawn.env_seed, options=options)
        self._clear_run(info["state"])

    def _clear_run(self, state: Array) -> None:
        self.log = EpisodeLog(frames=[self.obs["pixels"]], states=[state])
        self.agent: Agent | None = None
        self.imagined: Array | None = None
        self.path: Array | None = None
        self.warnings: list[str] = []

    # The goal ------------------------------------------------------------------------------

    def set_goal(self, state: Array) -> None:
        """Take a state ``[Ds]`` for the goal; the agent gets its image."""
        self.goal_state: Array | None = state
        self.goal = self.task.render_state(state)

    def nearest_movable(self, place: ArrayLike) -> str | None:
        """The movable object nearest to a place in the goal image."""
        if not self.movable:
            return None
        point, state = self.task.from_image(place), self._latest_goal()
        distance = {
            name: float(np.linalg.norm(state[x : x + 2] - point))
            for name, x in self.movable.items()
        }
        return min(distance, key=lambda name: distance[name])

    def move(self, name: str, place: ArrayLike) -> None:
        """Move an object of the goal to a place, or to the nearest free one."""
        state, x = self._latest_goal(), self.movable[name]
        state[x : x + 2] = self.task.from_image(place)
        self.set_goal(self.task.settle(state))

    def turn(self, degrees: float) -> None:
        """Set the heading of the goal's turnable object."""
        assert self.turnable is not None
        state = self._latest_goal()
        state[self.turnable] = np.deg2rad(degrees)
        self.set_goal(self.task.settle(state))

    @property
    def degrees(self) -> float:
        """The heading of the goal's turnable object, from -180 to 180."""
        assert self.turnable is not None
        return (float(np.rad2deg(self._latest_goal()[self.turnable])) + 180) % 360 - 180

    def _latest_goal(self) -> Array:
        state = self.drawn.goal_state if self.goal_state is None else self.goal_state
        return state.copy()

    def upload(self, content: bytes, name: str) -> None:
        """Take a PNG file for the goal image.

        Raises:
            UserError: it is not PNG, is too large, or does not have the size of camera images.
        """
        if len(content) > LARGEST_UPLOAD:
            raise UserError(f"{name} has {len(content)} bytes: the limit is {LARGEST_UPLOAD}")
        if not content.startswith(b"\x89PNG\r\n"):
            raise UserError(f"{name} is not a PNG image: save the goal as PNG")
        self.goal = read_image(io.BytesIO(content), name, self.info.image_size)
        self.goal_state = None

    # Guardrails ----------------------------------------------------------------------------

    def add_region(self, corner: ArrayLike, opposite: ArrayLike, margin: float) -> None:
        """Forbid the robot a rectangle between two places, and `margin` metres around it.

        Raises:
            UserError: the rectangle is too small, the margin is negative, or the camera does not
                look straight at the workspace.
        """
        if self.task.in_image(np.zeros(2)) is None:
            raise UserError("no regions here: the camera does not look straight at the workspace")
        corners = np.clip([corner, opposite], 0.0, 1.0)
        if (np.ptp(corners, axis=0) < SMALLEST_REGION).any():
            raise UserError("the rectangle is too small: drag from one corner to the opposite one")
        (left, low), (right, high) = np.sort(self.task.from_image(corners), axis=0)
        text = f"no_go:x={left:.4f}:{right:.4f},y={low:.4f}:{high:.4f},margin={margin:g}"
        parse_rules([text])
        self.guardrails = [*self.guardrails, text]

    def clear_regions(self) -> None:
        """Remove all regions."""
        self.guardrails = []

    def regions(self) -> list[tuple[Array, bool]]:
        """Polygons ``[n, 2]`` of regions and their margins, and whether to shade each."""
        return guardrail_regions(self.env, parse_rules(self.guardrails))

    # The run -------------------------------------------------------------------------------

    def begin(self, steps: int) -> None:
        """Make an agent that acts for `steps` environment steps from the current state.

        Raises:
            UserError: `steps` is below 1, or a guardrail does not fit the robot.
        """
        config = AgentConfig(guardrails=tuple(self.guardrails), seed=self.seed)
        parts = self.model, self.encoder, self.info
        agent = Agent(*parts, planners.make("cem"), config, task_hold(self.env))
        agent.reset(self.goal, steps=steps)
        state, pixels = self.log.states[-1], self.obs["pixels"]
        self._clear_run(state)
        known = self.goal_state is not None
        success = bool(self.task.success(state, self.goal_state)) if known else None
        self.warnings = goal_warnings(agent.perception, pixels, success)
        self.agent = agent

    def step(self) -> None:
        """One environment step."""
        assert self.agent is not None
        plans, proprio = len(self.log.imagined), torch.from_numpy(self.obs["proprio"]).float()
        self.obs = act_once(self.agent, self.env, self.obs, self.log)
        if len(self.log.imagined) > plans:
            self._show_plan(self.agent, proprio)

    def _show_plan(self, agent: Agent, start: torch.Tensor) -> None:
        """Decode the plan just made, and find its path; `start`: proprio ``[Dp]`` at its start."""
        z, proprio = self.log.imagined[-1]
        if self.decoder is not None:
            self.imagined = self.decoder.paint(z)
        assert agent.last_plan is not None and proprio is not None
        action = agent.sequence(agent.last_plan.actions)[0, 0].float().cpu().numpy()
        points = self.task.action_path(action)
        read = agent.senses.find(("x", "y"), whole=False)
        if points is None and read is not None:
            points = read(Trajectory(z, torch.cat([start[None], proprio]))).numpy()
        self.path = None if points is None else self.task.in_image(points)

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        return len(self.log.actions)

    @property
    def next_imagined(self) -> int:
        """Index of the predicted frame that comes next."""
        if self.agent is None or not self.log.plan_steps:
            return 0
        return max(0, self.steps - self.log.plan_steps[-1] - 1) // self.agent.frameskip

    def outcome(self) -> str:
        """Success and errors, computed from simulator state."""
        if self.goal_state is None:
            return "unknown: an uploaded image does not tell the goal's state"
        found = episode_outcome(self.env, self.log.states, self.goal_state)
        text = "goal not reached yet"
        if found["success_at_start"] or found["success_any"]:
            first = f"step {found['first_success_step']}"
            text = f"goal reached at {'the start' if found['success_at_start'] else first}"
            text += "" if found["success_final"] else ", then left again"
        parts = []
        for name, error in self.task.errors(self.log.states[-1], self.goal_state).items():
            quantity, _, unit = name.partition(", ")
            parts.append(f"{quantity} {error:.1f} {unit}")
        return f"{text}; errors: {', '.join(parts)}" if parts else text

    def close(self) -> None:
        """Close the environment."""
        self.env.close()
