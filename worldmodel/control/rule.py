"""One guardrail, as a user wrote it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.task import Task
from planners import Trajectory
from planners.guardrails import (
    Box,
    Disc,
    Limit,
    Polygon,
    Region,
    at_most,
    keep_apart,
    lose_at_most,
    no_go,
    points_inside,
    stay_inside,
    unlike,
)
from worldmodel.control.senses import Read, Senses
from worldmodel.errors import UserError

Array = NDArray[Any]
ACTION_KINDS = ("max_action", "max_change")
KINDS = (
    *("no_go", "workspace", "keep_apart", "max_speed", *ACTION_KINDS, "unlike"),
    *("familiar", "action_points", "lose"),
)


@dataclass(frozen=True)
class Rule:
    """A guardrail as a user wrote it; `limit` makes it one for planners.

    text: as it was written.
    kind: one of KINDS.
    of: the object or quantity that it limits, by the probe's name, or "" for the robot.
    region: the region to stay out of, or to stay in.
    most: the limit, where it is a number; `keep_apart` and `unlike`: the least distance. 0 for
        `unlike` stands for the checkpoint's `near`.
    photo: path of the image that predictions must not look like.
    insets: names of points of an action, and how far each stays inside the bounds, metres.
    margin: in the limit's unit; None where it is to be calibrated.
    """

    text: str
    kind: str
    of: str = ""
    region: Region | None = None
    most: float = 0.0
    margin: float | None = 0.0
    photo: str = ""
    insets: tuple[tuple[str, float], ...] = ()

    @property
    def bare(self) -> str:
        """The text without its margin, which identifies a calibration."""
        kind, _, rest = self.text.partition(":")
        return f"{kind}:{','.join(p for p in rest.split(',') if not p.startswith('margin='))}"

    @property
    def tier(self) -> int:
        """1 for limits on actions alone, 2 for limits on predictions."""
        return 1 if self.kind in ACTION_KINDS else 2

    @property
    def decided_by_states(self) -> bool:
        """Whether true states decide if it was violated; images or actions decide the others."""
        return self.kind not in ("unlike", "familiar", "action_points")

    def limit(self, senses: Senses, now: Trajectory) -> Limit | None:
        """The guardrail for planners, or None where it limits actions alone.

        Args:
            senses: read quantities from predictions.
            now: present z ``[E, P, D]`` and proprio ``[E, Dp]``.

        Raises:
            UserError: `senses` cannot read a quantity that the rule limits.
        """
        if self.tier == 1:
            return None
        if self.margin is None:
            raise UserError(f"guardrail {self.text!r} has no margin yet: calibrate it")
        if self.kind in ("unlike", "familiar") and senses.distance is None:
            raise UserError(f"guardrail {self.text!r} is about images: states do not decide it")
        if self.kind == "unlike":
            assert senses.distance is not None
            examples = senses.photos[self.photo][None]
            least = self.most or senses.near
            return unlike(examples, senses.distance, least, self.margin, self.text)
        if self.kind == "familiar":
            familiar = senses.familiar

            def unfamiliarity(trajectory: Trajectory) -> Tensor:
                assert familiar is not None and trajectory.proprio is not None
                return familiar(trajectory.z, trajectory.proprio).unsqueeze(-1)

            return at_most(
                unfamiliarity, self.most, "of the usual distance", self.margin, self.text
            )
        if self.kind == "max_speed":
            return at_most(
                self._read(senses, ("vx", "vy")), self.most, "m/s", self.margin, self.text
            )
        if self.kind == "action_points":
            return self._points_inside(senses)
        if self.kind == "lose":
            count = self._read(senses, (self.of,))
            return lose_at_most(count, count(now), self.most, self.of, self.margin, self.text)
        read = self._read(senses, ("x", "y"), self.of)
        if self.kind == "keep_apart":
            robot = self._read(senses, ("x", "y"))
            return keep_apart(robot, read, self.most, self.margin, self.text)
        assert self.region is not None
        keep = no_go if self.kind == "no_go" else stay_inside
        return keep(self.region, read, read(now), margin=self.margin, name=self.text)

    def _points_inside(self, senses: Senses) -> Limit:
        known = senses.action_points()
        if strange := [name for name, _ in self.insets if name not in known]:
            raise UserError(
                f"guardrail {self.text!r} needs actions with {strange[0]}_x and {strange[0]}_y, "
                f"but their numbers are called {', '.join(senses.action_names) or 'nothing'}"
            )
        insets, low, high = dict(self.insets), senses.low, senses.high
        points = []
        for name, (x, y) in known.items():
            bounds = Box((low[x], high[x]), (low[y], high[y]))
            points.append(((x, y), bounds, insets.get(name, 0.0)))
        return points_inside(points, len(low), self.margin or 0.0, self.text)

    def _read(self, senses: Senses, names: Sequence[str], of: str = "") -> Read:
        """A function that reads these quantities of the robot, or of another object."""
        wanted = [f"{of}_{name}" if of else name for name in names]
        read = senses.find(wanted, whole=bool(of))
        if read is None:
            known = ", ".join((*senses.names, *senses.read_names)) or "nothing"
            raise UserError(
                f"guardrail {self.text!r} needs {' and '.join(wanted)}; this checkpoint has {known}"
            )
        return read

    def violation(self, task: Task, states: Array) -> Array:
        """How far true states violate the rule, without its margin.

        Args:
            task: names the numbers of states, and reads further quantities from them.
            states: paths ``[..., n + 1, Ds]``.

        Returns:
            The violation in each of the n steps ``[..., n]``, in the rule's unit; none if <= 0.

        Raises:
            UserError: states do not decide this rule.
        """
        states = np.asarray(states, np.float64)
        names = list(task.state_names)
        readings = {k: v for k, v in task.readings(states).items() if k not in names}
        names += readings
        values = np.concatenate([states, *(v[..., None] for v in readings.values())], -1)
        paths = torch.from_numpy(values)
        paths = paths.view(-1, *paths.shape[-2:])  # [E, n + 1, D]
        after, now = paths[:, None, 1:], paths[:, 0]
        judged = dataclasses.replace(self, margin=0.0)
        limit = judged.limit(Senses(names), Trajectory(now.unsqueeze(-2), now))
        if limit is None:  # actions are projected into their limits: no violation is possible
            return np.full(np.shape(states)[:-2] + (np.shape(states)[-2] - 1,), -np.inf)
        found: Array = limit(Trajectory(after.unsqueeze(-2), after), after)[:, 0].numpy()
        return found.reshape(*np.shape(states)[:-2], -1)

    def outline(self) -> Array | None:
        """The border of the region as a polygon ``[n, 2]``, metres, or None; for pictures. Open
        ends are cut at a kilometre."""
        match self.region:
            case Box((left, right), (low, high)):
                corners = [(left, low), (right, low), (right, high), (left, high)]
                return np.clip(corners, -1e3, 1e3)
            case Disc((x, y), radius):
                angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
                return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], -1)
            case Polygon(corners):
                return np.array(corners)
        return None

    def margin_outline(self) -> Array | None:
        """The outline of the region with its margin; None where there is no margin."""
        border = self.outline()
        if border is None or self.region is None or not self.margin:
            return None
        along = np.roll(border, -1, 0) - border
        outward = along[:, ::-1] * [1.0, -1.0] / np.linalg.norm(along, axis=1, keepdims=True)
        middle, nudge = border + along / 2, 1e-6 * outward
        sides = (
            self.region.distance(torch.from_numpy(p)) for p in (middle + nudge, middle - nudge)
        )
        outward *= np.sign(np.subtract(*(side.numpy() for side in sides)))[:, None]
        if self.kind == "workspace":
            outward = -outward
        shifted = np.stack([border, border + along], 1) + self.margin * outward[:, None]
        return shifted.reshape(-1, 2)
