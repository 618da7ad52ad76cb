"""Fields of observations and logs: which the robot measures of itself, and which are images.

A field is named by its path in nested Dicts and Tuples, such as ``robot.qpos``; an observation that
is one array is the field ``observation``. ``name[2]`` and ``name[0:3]`` are parts of a field. An
entry of a Tuple is ``arms.0`` or ``arms[0]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Array = NDArray[Any]
Part = tuple[str, slice]

# What is plainly the robot's own. A whole observation may hold the goal and the truth.
ROBOT = re.compile(
    r"observation\.state|(.*[._/])?(proprio\w*|agent_pos|robot\d*_\w+|qpos|qvel|joint_(pos|vel)\w*)"
)
TRUTH = re.compile(r"infos\.|.*(goal|desired|object)")
ENTRY = re.compile(r"\[(\d+)\]")
PART = re.compile(r"(?P<name>.+?)(\[(?P<start>\d+)(:(?P<stop>\d+))?\])?")


def robots_own(names: Mapping[str, Any]) -> list[str]:
    """Those names that are plainly the robot's own."""
    return [name for name in names if ROBOT.fullmatch(name) and not TRUTH.match(name)]


def parse_parts(text: str, widths: Mapping[str, int]) -> tuple[Part, ...]:
    """Parts of fields, from "qpos,block[0:2]".

    Args:
        text: names separated by commas; "none" and "" are no fields.
        widths: how many numbers each field has.

    Raises:
        ValueError: there is no such field or part.
    """
    names = [] if text in ("", "none") else text.split(",")
    return tuple(_part(name.strip(), widths) for name in names)


def dotted(name: str) -> str:
    """A name with entries of Tuples as fields have them: ``arms.0`` for ``arms[0]``."""
    return ENTRY.sub(r".\1", name)


def _part(text: str, widths: Mapping[str, int]) -> Part:
    if dotted(text) in widths:
        return dotted(text), slice(0, widths[dotted(text)])
    match = PART.fullmatch(text)
    name = dotted(match["name"]) if match else text
    if match is None or name not in widths:
        raise ValueError(f"no field {name!r}: there are {', '.join(widths) or 'none'}")
    start = int(match["start"] or 0)
    stop = int(match["stop"] or (start + 1 if match["start"] else widths[name]))
    if not start < stop <= widths[name]:
        raise ValueError(f"{name} has {widths[name]} numbers, and {text} asks for others")
    return name, slice(start, stop)


def spelled(part: Part) -> str:
    """A part as `parse_parts` reads it."""
    name, numbers = part
    return f"{name}[{numbers.start}:{numbers.stop}]"


def part_names(parts: tuple[Part, ...]) -> tuple[str, ...]:
    """A name for each number of some parts."""
    return tuple(f"{name}_{i}" for name, part in parts for i in range(part.start, part.stop))


# Observations ------------------------------------------------------------------------------------


def space_fields(space: spaces.Space[Any], name: str = "") -> dict[str, spaces.Space[Any]]:
    """The fields of an observation space."""
    if isinstance(space, spaces.Dict):
        parts: Iterator[tuple[Any, spaces.Space[Any]]] = iter(space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        parts = enumerate(space.spaces)
    else:
        return {name or "observation": space}
    found: dict[str, spaces.Space[Any]] = {}
    for key, inner in parts:
        found |= space_fields(inner, f"{name}.{key}" if name else str(key))
    return found


def is_picture(space: spaces.Space[Any]) -> bool:
    """Whether values of a space are images: ``[H, W, C]`` or ``[C, H, W]``, or grey ones, uint8."""
    if not isinstance(space, spaces.Box) or len(space.shape) not in (2, 3):
        return False
    colours = (space.shape[-1] in (1, 3, 4) or space.shape[0] in (1, 3, 4)) and space.shape[1] >= 8
    return len(space.shape) == 3 and colours or space.dtype == np.uint8 and min(space.shape) >= 8


def number_fields(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    """The fields of a space that can be flattened to numbers, without images."""
    found = space_fields(space)
    return {n: s for n, s in found.items() if s.is_np_flattenable and not is_picture(s)}


def field(observation: Any, name: str) -> Any:
    """The value of one field of an observation."""
    if name == "observation" and not isinstance(observation, Mapping | tuple):
        return observation
    key, _, rest = name.partition(".")
    if isinstance(observation, tuple):
        value = observation[int(key)]
    elif key in observation:
        value = observation[key]
    else:  # a key that holds a dot itself
        return observation[name]
    return field(value, rest) if rest else value


def flat(space: spaces.Space[Any], value: Any) -> Array:
    """The numbers of a field ``[n]``, float64."""
    return np.asarray(spaces.flatten(space, value), np.float64).ravel()
