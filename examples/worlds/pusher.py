"""Gymnasium's Pusher: push the object to where the goal image shows it, within 5 cm.

Its contacts are stiffened: MuJoCo 4.0 leaves the object's armature out of them, and so the hand
passes through the object (github.com/Farama-Foundation/Gymnasium/issues/1576).
"""

import mujoco
import numpy as np

from envs.random_walk import RandomWalk
from envs.worlds import MujocoWorld

LINKS = "shoulder_pan shoulder_lift upper_arm_roll elbow_flex forearm_roll wrist_flex wrist_roll"
ARM = [f"r_{link}_joint" for link in LINKS.split()]


class Pusher(MujocoWorld):
    world_id = "Pusher-v5"
    camera = {"lookat": (0.4, -0.25, -0.3), "distance": 1.6, "azimuth": -90, "elevation": -60}
    hidden = ("goal",)
    body, tolerance = "object", 0.05
    proprio_names = (*(f"{j}_angle" for j in ARM), *(f"{j}_velocity" for j in ARM))

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model.body("object").invweight0[0] = 1 / self.model.joint("obj_slidex").armature[0]

    def explore(self, policy, rng):
        walk = RandomWalk(rng, self.action_space, persistence=5)
        aim, jacobian = np.array([*rng.normal(0, 0.15, 2), 0]), np.zeros((3, self.model.nv))

        def act(obs, info):  # through the object to its other side, again and again
            if rng.uniform() < 0.05:
                aim[:2] = rng.normal(0, 0.1, 2) - aim[:2]
            data = self.at(info["state"])
            mujoco.mj_jacBody(self.model, data, jacobian, None, data.body("tips_arm").id)
            offset = data.body("object").xpos + aim - data.body("tips_arm").xpos
            brake = 0.05 * info["state"][9:16]
            return 0.3 * walk(obs, info) + (offset * [80, 80, 200]) @ jacobian[:, :7] - brake

        return act
