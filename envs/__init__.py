"""What the robot lives in: MuJoCo tasks seen from above, as Gymnasium environments, and wrappers.

Importing this package registers the environments, so other people's code needs no import of ours:
``gymnasium.make("envs:worldmodel/PushT-v0")``.
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
