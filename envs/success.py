"""What counts as a success in an environment that has no task of its own.

`Near` and `Judged` compare a state with the goal's, so any state can be a goal. `Said` is the
environment's word about its own goal, so only a state in which it said so can be one.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.observation_fields import parse_parts

Array = NDArray[Any]
REWARD = re.compile(r"reward\s*>\s*(?P<least>\S+)")
FUNCTION = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<name>[A-Za-z_]\w*)")
WAYS = (
    "NAME:TOLERANCE, as agent_pos:20; info.NAME, as info.is_success; terminated; "
    "reward>NUMBER; or my_module:reached"
)


@dataclass(frozen=True)
class Near:
    """Fields of the observation are within tolerances of the goal's: names, their columns of a
    state, and tolerances."""

    tolerances: tuple[tuple[str, Array, float], ...]

    def reached(self, state: Array, goal: Array) -> bool:
        """Whether a state ``[Ds]`` counts as the goal."""
        return bool(self.distance(state, goal) < 1)

    def distance(self, states: Array, goal: Array) -> Array:
        """The largest of the squared errors ``[...]``, each in units of its tolerance."""
        errors = [np.zeros(states.shape[:-1])]
        for name, columns, tolerance in self.tolerances:
            off = _difference(name, states[..., columns], goal[columns])
            errors.append(np.square(off / tolerance).sum(-1))
        worst: Array = np.max(errors, 0)
        return worst

    def errors(self, state: Array, goal: Array) -> dict[str, float]:
        """Errors by the name of the field, in its unit."""
        return {
            name: float(np.linalg.norm(_difference(name, state[columns], goal[columns])))
            for name, columns, _ in self.tolerances
        }


@dataclass(frozen=True)
class Judged:
    """A function of the user's decides: ``function(now, goal) -> bool``. Both are dicts of the
    observation's fields, float64 ``[n]``.

    Attributes:
        text: its name, for messages.
        function: decides.
        columns: of a state, by the name of the field.
    """

    text: str
    function: Callable[[dict[str, Array], dict[str, Array]], Any]
    columns: Mapping[str, Array]

    def reached(self, state: Array, goal: Array) -> bool:
        """Whether a state ``[Ds]`` counts as the goal.

        Raises:
            ValueError: the function does not return true or false.
        """
        now, then = ({n: s[columns] for n, columns in self.columns.items()} for s in (state, goal))
        return _truth(self.function(now, then), f"{self.text} returns")


@dataclass(frozen=True)
class Said:
    """The environment's own word.

    Attributes:
        text: ``terminated``, or how the other two were spelled.
        least: a reward above this one says so, or None.
        key: of a truth value in ``info`` that says so, or "".
    """

    text: str
    least: float | None = None
    key: str = ""

    def __call__(self, reward: float, terminated: bool, info: Mapping[str, Any]) -> bool:
        """Whether the environment says after a step that its goal is reached.

        Raises:
            ValueError: there is no such truth value.
        """
        if self.least is not None:
            return float(reward) > self.least
        if not self.key:
            return bool(terminated)
        if self.key not in info:
            raise ValueError(
                f"success is {self.text!r}, but info has no {self.key!r} after a step: it has "
                f"{', '.join(map(str, info)) or 'nothing'}"
            )
        return _truth(info[self.key], f"{self.text} is")

    def at_reset(self, info: Mapping[str, Any]) -> bool:
        """The same after a reset, where only ``info`` can say so."""
        return self.key in info and self(0.0, False, info)


def parse_success(text: str, widths: Mapping[str, int]) -> Near | Judged | Said:
    """What counts as a success, from one of `WAYS`.

    Args:
        text: such as "block_pos:20,block_angle:0.35". A field of several numbers is compared by its
            Euclidean distance, a field whose name ends in angle, theta or yaw as an angle in
            radians.
        widths: how many numbers each field of the observation has, in the order of a state.

    Raises:
        ValueError: `text` is none of them, or names no field or function.
    """
    starts = dict(zip(widths, np.cumsum([0, *widths.values()]), strict=False))
    if text == "terminated":
        return Said(text)
    if text.startswith("info.") and len(text) > 5:
        return Said(text, key=text.removeprefix("info."))
    if reward := REWARD.fullmatch(text):
        return Said(text, _number(reward["least"], text))
    function = FUNCTION.fullmatch(text)
    if function and function["module"] not in widths:
        columns = {name: starts[name] + np.arange(n) for name, n in widths.items()}
        return Judged(text, _imported(function["module"], function["name"]), columns)
    found = []
    # A part such as arm[0:2] holds a colon, too: the tolerance follows the last one.
    for each in filter(None, text.split(",")):
        name, _, number = each.strip().rpartition(":")
        tolerance = _number(number, each)
        if not name or tolerance <= 0:
            raise ValueError(f"success is {each!r}: write {WAYS}")
        ((field_name, part),) = parse_parts(name, widths)
        found.append((field_name, starts[field_name] + np.arange(part.start, part.stop), tolerance))
    return Near(tuple(found))


def _number(text: str, success: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        raise ValueError(f"success is {success!r}: write {WAYS}")
    return number


def _imported(module: str, name: str) -> Callable[..., Any]:
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"success is {module}:{name}, which cannot be imported: {error}") from None
    if not callable(function):
        raise ValueError(f"success is {module}:{name}, which is no function(now, goal)")
    return function  # type: ignore[no-any-return]


def _truth(value: Any, what: str) -> bool:
    """A truth value, as bool, 0 or 1."""
    found = np.asarray(value)
    if found.size != 1 or found.dtype == object or found.item() not in (0, 1):
        raise ValueError(f"{what} {value!r:.60}: it must be true or false")
    return bool(found.item())


def _difference(name: str, values: Array, goal: Array) -> Array:
    off: Array = values - goal
    if name.endswith(("angle", "theta", "yaw")):
        off = (off + np.pi) % (2 * np.pi) - np.pi
    return off
