"""Guardrails as people write them, for planners to keep and for judges to look at.

    no_go:x=0.1:0.3,y=0:0.2      the robot stays out of a rectangle
    no_go:disc=0.2:0.3:0.05      of a disc: centre and radius
    no_go:polygon=0:0:0.2:0:0:0.2,margin=0.01
    workspace:x=0.05:0.45        the robot stays inside; ends that are not given are open
    no_go:of=block,y=0:0.1       the centre of something else that the checkpoint's probe reads
    keep_apart:0.08,of=block     at least so many metres between the robot's centre and another's
    max_speed:0.1                metres a second, of the robot
    max_action:0.015             length of an action, in its own unit
    max_change:0.01              of any number of an action from one step to the next
    unlike:broken.png,least=0.1  never look like this photo: the least latent distance from it
    familiar:1                   nothing imagined is farther from what the data showed than is usual
    action_points:start=0,end=0.05  how far the named points of an action (``start_x``, ``start_y``
                                 and so on) stay inside the bounds of actions, metres
    lose:0.5,of=chips            a count that the probe reads must not fall by more than this

Actions are limited whatever the model imagines (tier 1). The others hold for every step that is
imagined, and for the straight ways between (tier 2): as well as the model foresees where the robot
goes, and for other things, as well as the probe reads where they are (`worldmodel.probe --save`).
`margin` is how far it stays from a limit, in the limit's unit; `margin=calibrated` takes what
`worldmodel.calibrate` found for this model, planner and guardrail.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.task import Task
from planners import ActionLimits, Guardrail, Trajectory
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
from worldmodel.errors import UserError

Array = NDArray[Any]
KINDS = (
    *("no_go", "workspace", "keep_apart", "max_speed", "max_action", "max_change", "unlike"),
    *("familiar", "action_points", "lose"),
)

ON_ACTIONS = ("max_action", "max_change")
LEAST = 0.1  # latent distance at which things are near, as agents have it by default
OPEN = (-math.inf, math.inf)


@dataclass(frozen=True, eq=False)
class Senses:
    """How numbers with names are known of what is imagined: measured, or read off the latents.

    names: of the numbers of proprio.
    read_names: of those that are read off latents, flattened to ``[..., N]``.
    weights: how, linearly: ``[N + 1, len(read_names)]``, the last row a constant.
    photos: latents ``[P, D]`` of the photos that rules speak of, by their paths.
    distance: of latents ``[..., P, D]`` from others, ``[...]``.
    familiar: distance of latents ``[..., P, D]`` and proprio ``[..., Dp]`` from what the data
        showed, ``[...]``; 1 is usual.
    action_names: of the numbers of an action.
    low, high: bounds of actions ``[A]``.
    """

    names: Sequence[str]
    read_names: Sequence[str] = ()
    weights: Tensor | None = None
    photos: Mapping[str, Tensor] = field(default_factory=dict)
    distance: Callable[[Tensor, Tensor], Tensor] | None = None
    familiar: Callable[[Tensor, Tensor], Tensor] | None = None
    action_names: Sequence[str] = ()
    low: Sequence[float] = ()
    high: Sequence[float] = ()

    def action_points(self) -> dict[str, list[int]]:
        """The points of an action by name, such as ``start``, with the columns of their x and y."""
        names = list(self.action_names)
        return {
            name[:-2]: [column, names.index(f"{name[:-2]}_y")]
            for column, name in enumerate(names)
            if name.endswith("_x") and f"{name[:-2]}_y" in names
        }

    def find(self, wanted: Sequence[str], whole: bool) -> Callable[[Trajectory], Tensor] | None:
        """What gives these numbers ``[..., len(wanted)]`` of a trajectory, or None. Unless only the
        `whole` name counts, the first name of proprio that ends so will do: pusher_x for x."""
        known = list(self.names)
        if not whole:
            known = [name.rpartition("_")[2] for name in known]
        if set(wanted) <= set(known):
            at = [known.index(name) for name in wanted]

            def measured(trajectory: Trajectory) -> Tensor:
                assert trajectory.proprio is not None
                return trajectory.proprio[..., at]

            return measured
        if self.weights is None or not set(wanted) <= set(self.read_names):
            return None
        weights = self.weights[:, [list(self.read_names).index(name) for name in wanted]]

        def read(trajectory: Trajectory) -> Tensor:
            return trajectory.z.flatten(-2).float() @ weights[:-1] + weights[-1]

        return read


@dataclass(frozen=True)
class Rule:
    """One guardrail that somebody asked for.

    text: as it was written.
    kind: one of KINDS.
    of: what it is about: a name of the probe's, or "" for the robot.
    region: where not to go, or where to stay.
    most: the limit, where it is a number: of `keep_apart` and `unlike` the least.
    photo: the path of the image that nothing may look like.
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
        """The text without its margin: what a calibration is for."""
        kind, _, rest = self.text.partition(":")
        return f"{kind}:{','.join(p for p in rest.split(',') if not p.startswith('margin='))}"

    @property
    def tier(self) -> int:
        """1 where actions alone are limited, 2 where what is imagined is."""
        return 1 if self.kind in ON_ACTIONS else 2

    @property
    def judgeable(self) -> bool:
        """Whether true states tell if it was broken; of the others, what is seen or done does."""
        return self.kind not in ("unlike", "familiar", "action_points")

    def limit(self, senses: Senses, now: Trajectory) -> Limit | None:
        """What planners have to keep, or None where actions alone are limited.

        Args:
            senses: how it is known where things are.
            now: z ``[E, P, D]`` and proprio ``[E, Dp]``.

        Raises:
            UserError: nothing tells where it is, or how fast it goes.
        """
        if self.tier == 1:
            return None
        if self.margin is None:
            raise UserError(f"guardrail {self.text!r} has no margin yet: calibrate it")
        if self.kind in ("unlike", "familiar") and senses.distance is None:
            raise UserError(f"guardrail {self.text!r} is on what states do not tell")
        if self.kind == "unlike":
            assert senses.distance is not None
            examples = senses.photos[self.photo][None]
            return unlike(examples, senses.distance, self.most, self.margin, self.text)
        if self.kind == "familiar":
            familiar = senses.familiar

            def strange(trajectory: Trajectory) -> Tensor:
                assert familiar is not None and trajectory.proprio is not None
                return familiar(trajectory.z, trajectory.proprio).unsqueeze(-1)

            return at_most(strange, self.most, "of what is usual", self.margin, self.text)
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

    def _read(
        self, senses: Senses, names: Sequence[str], of: str = ""
    ) -> Callable[[Trajectory], Tensor]:
        """What gives these numbers of the robot, or of something else."""
        wanted = [f"{of}_{name}" if of else name for name in names]
        read = senses.find(wanted, whole=bool(of))
        if read is None:
            known = ", ".join((*senses.names, *senses.read_names)) or "nothing"
            raise UserError(
                f"guardrail {self.text!r} needs {' and '.join(wanted)}, but known are {known}"
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
        if limit is None:  # actions are limited before anything sees them
            return np.full(np.shape(states)[:-2] + (np.shape(states)[-2] - 1,), -np.inf)
        found: Array = limit(Trajectory(after.unsqueeze(-2), after), after)[:, 0].numpy()
        return found.reshape(*np.shape(states)[:-2], -1)

    def outline(self) -> Array | None:
        """The border of the region as a polygon ``[n, 2]``, metres, or None; for pictures. What is
        endless ends at a kilometre."""
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
        """The same for where plans have to stay, or stay out of, because of the margin; None where
        there is none."""
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


def parse_rules(texts: Sequence[str]) -> tuple[Rule, ...]:
    """Guardrails as written: see the module.

    Raises:
        UserError: it is not one, with what is wrong.
    """
    return tuple(map(_parse, texts))


def permitted(
    rules: Sequence[Rule], task: Task, start: Array, goal: Array, across: bool = False
) -> bool:
    """Whether a start and a goal ``[Ds]`` satisfy all rules with their margins.

    Args:
        rules: all of them.
        task: names the numbers of states, and reads further quantities from them.
        start: a state.
        goal: another.
        across: whether the straight way between them must break a rule.
    """
    ends = [np.stack([state, state]) for state in (start, goal)]
    for rule in rules:
        if any((rule.violation(task, end) > -(rule.margin or 0.0)).any() for end in ends):
            return False
    way = np.linspace(start, goal, 50)
    return not across or any((rule.violation(task, way) > 0).any() for rule in rules)


def action_limits(rules: Sequence[Rule], before: Tensor) -> ActionLimits | None:
    """What the rules say of actions alone, or None where they say nothing.

    Args:
        rules: all of them.
        before: the action taken last, ``[E, A]``.
    """
    least = {
        kind: min((r.most - (r.margin or 0) for r in rules if r.kind == kind), default=None)
        for kind in ("max_action", "max_change")
    }
    if all(most is None for most in least.values()):
        return None
    return ActionLimits(before, norm=least["max_action"], change=least["max_change"])


def guardrails(rules: Sequence[Rule], senses: Senses, now: Trajectory) -> tuple[Guardrail, ...]:
    """What the rules say of what is imagined: see `Rule.limit`."""
    limits = (rule.limit(senses, now) for rule in rules)
    return tuple(limit for limit in limits if limit is not None)


def _parse(text: str) -> Rule:
    kind, colon, rest = text.partition(":")
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, 1, 0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"no guardrail is called {kind!r}: {hint}there are {', '.join(KINDS)}")
    if not colon:
        raise UserError(f"guardrail {text!r} says no limit: write {_example(kind)}")
    first, *more = rest.split(",")
    options = dict(part.partition("=")[::2] for part in (rest.split(",") if "=" in first else more))
    written = options.pop("margin", "0")
    margin = None if written == "calibrated" else _finite(written, text, kind)
    if margin is None and kind in ON_ACTIONS:
        raise UserError(f"guardrail {text!r} is kept exactly: there is no margin to calibrate")
    if margin is not None and margin < 0:
        raise UserError(f"guardrail {text!r} has the margin {margin:g}: it must be at least 0")
    of = options.pop("of", "") if kind not in ON_ACTIONS else ""
    if kind in ("no_go", "workspace"):
        try:
            region = _region(options, text, kind)
        except ValueError as error:
            raise UserError(f"guardrail {text!r}: {error}") from None
        return Rule(text, kind, of, region, margin=margin)
    if kind == "action_points":
        if "=" not in first:
            raise UserError(f"guardrail {text!r} names no point: write {_example(kind)}")
        insets = tuple((name, _finite(value, text, kind)) for name, value in options.items())
        return Rule(text, kind, margin=margin, insets=insets)
    least = options.pop("least", str(LEAST)) if kind == "unlike" else first
    if options:
        raise UserError(f"guardrail {text!r} has no {min(options)!r}: write {_example(kind)}")
    if bool(of) != (kind in ("keep_apart", "lose")):
        raise UserError(f"guardrail {text!r}: write {_example(kind)}")
    most = _finite(least, text, kind)
    if not most > (0 if kind in ("keep_apart", "unlike") else margin or 0):
        raise UserError(f"guardrail {text!r}: the limit must be above {margin or 0:g}")
    return Rule(text, kind, of, None, most, margin, first if kind == "unlike" else "")


def _region(options: dict[str, str], text: str, kind: str) -> Region:
    shapes = {
        name: tuple(_number(part, text, kind) for part in value.split(":"))
        for name, value in options.items()
    }
    match shapes:
        case {"disc": (x, y, radius), **others} if not others:
            return Disc((x, y), radius)
        case {"polygon": corners, **others} if not others and len(corners) % 2 == 0:
            return Polygon(tuple(zip(corners[::2], corners[1::2], strict=True)))
        case _ if shapes and shapes.keys() <= {"x", "y"} and {*map(len, shapes.values())} == {2}:
            (left, right), (low, high) = (shapes.get(name, OPEN) for name in "xy")
            return Box((left, right), (low, high))
    raise UserError(f"guardrail {text!r} names no region: write {_example(kind)}")


def _number(part: str, text: str, kind: str) -> float:
    try:
        return float(part)
    except ValueError:
        raise UserError(
            f"guardrail {text!r}: {part!r} is not a number; write {_example(kind)}"
        ) from None


def _finite(part: str, text: str, kind: str) -> float:
    number = _number(part, text, kind)
    if not math.isfinite(number):
        raise UserError(f"guardrail {text!r}: {part} is not a finite number")
    return number


def _example(kind: str) -> str:
    regions = "x=0.1:0.3,y=0:0.2 or disc=0.2:0.3:0.05 or polygon=0:0:0.2:0:0:0.2"
    others = {"keep_apart": "0.08,of=block", "unlike": "photo.png or photo.png,least=0.1"}
    others |= {"lose": "0.5,of=chips", "action_points": "start=0,end=0.05"}
    return f"{kind}:{regions if kind in ('no_go', 'workspace') else others.get(kind, '0.1')}"
