"""Messages between a robot and the server: msgpack with NumPy arrays.

An array is a map ``{b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [..]}``, as in
openpi's policy server (github.com/Physical-Intelligence/openpi), so its clients can talk to ours.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from worldmodel.errors import UserError

KINDS = "biuf"  # of arrays: booleans, integers, floats


def pack(message: Any) -> bytes:
    """A message of numbers, strings, lists, dicts and arrays as bytes."""
    import msgpack

    packed: bytes = msgpack.packb(message, default=_encode)
    return packed


def unpack(data: bytes) -> Any:
    """The message that `data` holds.

    Raises:
        UserError: it is no message, or holds an array that is none.
    """
    import msgpack

    try:
        return msgpack.unpackb(data, object_hook=_decode, strict_map_key=False)
    except (ValueError, TypeError, KeyError, OverflowError, SyntaxError, RecursionError) as error:
        raise UserError(f"the message is no msgpack: {error}") from None
    except msgpack.exceptions.UnpackException:
        raise UserError("the message is no msgpack: it is cut off") from None


def _encode(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in KINDS:
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    raise TypeError(f"cannot send a {type(value).__name__}")


def _decode(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        dtype = np.dtype(value[b"dtype"])
        shape = tuple(map(int, value[b"shape"]))
        data = value[b"data"]
        if dtype.kind not in KINDS or min(shape, default=0) < 0:
            raise ValueError(f"an array of {dtype} and shape {shape}")
        if len(data) != dtype.itemsize * math.prod(shape):
            raise ValueError(f"an array of shape {shape} and {dtype} in {len(data)} bytes")
        return np.frombuffer(data, dtype).reshape(shape).copy()  # that may be written to
    if b"__npgeneric__" in value:
        return np.dtype(value[b"dtype"]).type(value[b"data"])
    return value
