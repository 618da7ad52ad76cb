"""PointMaze of gymnasium-robotics: roll the ball to where the goal image shows it, within 0.45 of a
cell of 1 m. An action, a force, lasts five of its steps: 0.05 s."""

from envs.random_walk import RandomWalk
from envs.worlds import MujocoWorld


class PointMazeU(MujocoWorld):
    world_id = "gymnasium_robotics:PointMaze_UMaze-v3"
    camera = {"lookat": (0, 0, 0), "distance": 5.0, "elevation": -90}
    hidden = ("target",)
    body, tolerance = "particle", 0.45
    repeat = 5
    state_names = proprio_names = ("ball_x", "ball_y", "ball_x_velocity", "ball_y_velocity")
    goal_offset_matters = False

    def explore(self, policy, rng):
        return RandomWalk(rng, self.action_space, persistence=8)


class PointMazeMedium(PointMazeU):
    world_id = "gymnasium_robotics:PointMaze_Medium-v3"
    camera = {**PointMazeU.camera, "distance": 8.4}
