"""Gymnasium's Reacher: bring the fingertip to where the goal image shows it, within 2 cm."""

from envs.random_walk import RandomWalk
from envs.worlds import MujocoWorld


class Reacher(MujocoWorld):
    world_id = "Reacher-v5"
    camera = {"lookat": (0, 0, 0), "distance": 0.65}
    hidden = ("target",)
    body, tolerance = "fingertip", 0.02
    proprio_names = (
        *("cos joint0_angle", "sin joint0_angle", "cos joint1_angle", "sin joint1_angle"),
        *("joint0_velocity", "joint1_velocity"),
    )

    def explore(self, policy, rng):
        walk = RandomWalk(rng, self.action_space, persistence=2)
        # Braked: else the joints would spin.
        return lambda obs, info: walk(obs, info) - 0.1 * info["state"][2:]
