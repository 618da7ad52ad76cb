"""Guardrails as people write them, for planners to keep and for evaluations to measure.

    no_go:x=0.1:0.3,y=0:0.2      the robot stays out of a rectangle
    no_go:disc=0.2:0.3:0.05      out of a disc: centre and radius
    no_go:polygon=0:0:0.2:0:0:0.2,margin=0.01
    workspace:x=0.05:0.45        the robot stays inside; a side that is not given is open
    no_go:of=block,y=0:0.1       the centre of another object, which the checkpoint's probe reads
    keep_apart:0.08,of=block     least distance of the robot's centre and another's, metres
    max_speed:0.1                speed of the robot, metres a second
    max_action:0.015             length of an action, in its own unit
    max_change:0.01              change of any number of an action from one step to the next
    unlike:broken.png,least=0.1  least latent distance from an example image; default: the
                                 checkpoint's near
    familiar:1                   distance from the training data, in units of the usual distance
    action_points:start=0,end=0.05  how far the named points of an action (``start_x``, ``start_y``
                                 and so on) stay inside the bounds of actions, metres
    lose:0.5,of=chips            a count that the probe reads must not fall by more than this

Tier 1: limits on actions hold exactly, whatever the model predicts. Tier 2: the others hold for
every predicted step and for the straight lines between, as well as the model predicts the robot's
motion and as well as the probe reads other objects (`worldmodel.probe --save`). `margin` is the
distance to keep from a limit, in the limit's unit; `margin=calibrated` takes the one that
`worldmodel.calibrate` found for this model, planner and guardrail.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from envs.task import Task
from planners import ActionLimits, Guardrail, Trajectory
from planners.guardrails import Box, Disc, Polygon, Region
from worldmodel.control.rule import ACTION_KINDS, KINDS, Rule
from worldmodel.control.senses import Senses
from worldmodel.errors import UserError

__all__ = ["Rule", "action_limits", "guardrails", "parse_rules", "permitted"]

Array = NDArray[Any]
OPEN = (-math.inf, math.inf)


def parse_rules(texts: Sequence[str]) -> tuple[Rule, ...]:
    """Guardrails as written: see the module.

    Raises:
        UserError: a text is not one.
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
        across: whether the straight line between them must violate a rule.
    """
    ends = [np.stack([state, state]) for state in (start, goal)]
    for rule in rules:
        if any((rule.violation(task, end) > -(rule.margin or 0.0)).any() for end in ends):
            return False
    way = np.linspace(start, goal, 50)
    return not across or any((rule.violation(task, way) > 0).any() for rule in rules)


def action_limits(rules: Sequence[Rule], before: Tensor) -> ActionLimits | None:
    """The limits of the rules on actions, or None where there are none.

    Args:
        rules: all of them.
        before: the action before, ``[E, A]``.
    """
    least = {
        kind: min((r.most - (r.margin or 0) for r in rules if r.kind == kind), default=None)
        for kind in ("max_action", "max_change")
    }
    if all(most is None for most in least.values()):
        return None
    return ActionLimits(before, norm=least["max_action"], change=least["max_change"])


def guardrails(rules: Sequence[Rule], senses: Senses, now: Trajectory) -> tuple[Guardrail, ...]:
    """The limits of the rules on predictions: see `Rule.limit`."""
    limits = (rule.limit(senses, now) for rule in rules)
    return tuple(limit for limit in limits if limit is not None)


def _parse(text: str) -> Rule:
    kind, colon, rest = text.partition(":")
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, 1, 0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"no guardrail is called {kind!r}: {hint}there are {', '.join(KINDS)}")
    if not colon:
        raise UserError(f"guardrail {text!r} has no limit: write {_example(kind)}")
    first, *more = rest.split(",")
    options = dict(part.partition("=")[::2] for part in (rest.split(",") if "=" in first else more))
    written = options.pop("margin", "0")
    margin = None if written == "calibrated" else _finite(written, text, kind)
    if margin is None and kind in ACTION_KINDS:
        raise UserError(f"guardrail {text!r} holds exactly: it has no margin to calibrate")
    if margin is not None and margin < 0:
        raise UserError(f"guardrail {text!r} has the margin {margin:g}: it must be at least 0")
    of = options.pop("of", "") if kind not in ACTION_KINDS else ""
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
    least = options.pop("least", "") if kind == "unlike" else first
    if options:
        raise UserError(f"guardrail {text!r} has no {min(options)!r}: write {_example(kind)}")
    if bool(of) != (kind in ("keep_apart", "lose")):
        raise UserError(f"guardrail {text!r}: write {_example(kind)}")
    if kind == "unlike" and not least:  # the checkpoint's near
        return Rule(text, kind, margin=margin, photo=first)
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
