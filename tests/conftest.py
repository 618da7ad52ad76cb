"""What all tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

# Before torch: tests run side by side with whatever else the machine does, and forked workers must
# not inherit a busy thread pool.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium as gym  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402
from make import Make  # noqa: E402

import envs  # noqa: E402, F401  (registers the environments)

# No deadline: physics on a busy machine takes as long as it takes. Derandomised: a test that fails
# today must fail again tomorrow.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


# A background job of a shell ignores SIGINT, and processes that it starts inherit that. A handler
# that does nothing is not inherited: tests can interrupt the processes that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, lambda *_: None)


@pytest.fixture
def make() -> Iterator[Make]:
    """``make(name, **kwargs)``: an environment that is closed after the test."""
    made: list[gym.Env[Any, Any]] = []

    def make_env(name: str, **kwargs: Any) -> gym.Env[Any, Any]:
        made.append(gym.make(f"envs:worldmodel/{name}-v0", **kwargs))
        return made[-1]

    yield make_env
    for env in made:
        env.close()
