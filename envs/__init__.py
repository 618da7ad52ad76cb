"""Environments: MuJoCo tasks seen from above, their `Task` interface, and wrappers.

Importing this package registers the environments with Gymnasium. ``gymnasium.make`` imports it by
the id ``envs:worldmodel/PushT-v0``.
"""

from __future__ import annotations

import gymnasium

gymnasium.register(
    id="worldmodel/PushT-v0", entry_point="envs.pusht:PushTEnv", max_episode_steps=200
)
gymnasium.register(id="worldmodel/Maze-v0", entry_point="envs.maze:MazeEnv", max_episode_steps=200)
gymnasium.register(
    id="worldmodel/GranularChips-v0",
    entry_point="envs.chips:GranularChipsEnv",
    max_episode_steps=20,
)
