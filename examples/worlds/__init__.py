"""Gymnasium worlds of other packages, for ``--env examples.worlds:worlds/ID``; see README.md."""

import gymnasium as gym

IDS = {
    "PushT-v0": "pusht:PushT",
    "PointMazeU-v0": "point_maze:PointMazeU",
    "PointMazeMedium-v0": "point_maze:PointMazeMedium",
    "Reacher-v0": "reacher:Reacher",
    "TwoRooms-v0": "two_rooms:TwoRooms",
    "Pusher-v0": "pusher:Pusher",
}
for name, entry in IDS.items():
    gym.register(f"worlds/{name}", f"examples.worlds.{entry}", max_episode_steps=200)
