"""A robot that asks a server for actions, ten a second. Replace `Robot` by your own.

python -m worldmodel.serve --checkpoint pusht --goal examples/goals/pusht.png
python examples/robot_client.py
"""

import sys
import time

import msgpack
import numpy as np
from websockets.sync.client import connect


class Robot:
    """Stands for cameras, encoders and motors: images [H, W, 3], proprio [Dp], actions [A]."""

    def observe(self):
        return np.zeros((480, 640, 3), np.uint8), np.array([0.1, 0.1, 0, 0], np.float32)

    def act(self, action):
        print("action", action)


def pack(x):
    if isinstance(x, np.ndarray):
        shape = {b"dtype": x.dtype.str, b"shape": x.shape}
        return {b"__ndarray__": True, b"data": x.tobytes(), **shape}
    raise TypeError(type(x))


def unpack(x):
    if b"__ndarray__" in x:
        return np.frombuffer(x[b"data"], x[b"dtype"]).reshape(x[b"shape"])
    return x


robot, period = Robot(), 0.1  # seconds
address = sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8000"
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 50
hold = action = None  # unknown yet
try:
    with connect(address, compression=None, max_size=None) as server:
        server_says = msgpack.unpackb(server.recv(timeout=10), object_hook=unpack)
        hold = server_says["hold"]  # "repeat": the last action again
        for _ in range(steps):
            began = time.monotonic()
            pixels, proprio = robot.observe()
            message = {"pixels": pixels, "proprio": proprio, "time": began}
            server.send(msgpack.packb(message, default=pack))
            answer = server.recv(timeout=1.0)
            if isinstance(answer, str):
                raise RuntimeError(answer)
            action = msgpack.unpackb(answer, object_hook=unpack)["actions"][0]
            robot.act(action)
            time.sleep(max(0.0, began + period - time.monotonic()))
finally:  # also when the connection is lost or an answer comes too late
    last = action if isinstance(hold, str) else hold
    if last is not None:
        robot.act(np.asarray(last))
