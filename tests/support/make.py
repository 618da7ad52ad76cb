"""Types of the fixtures that tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym

Make = Callable[..., gym.Env[Any, Any]]
