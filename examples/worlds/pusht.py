"""Push-T of gym-pusht (Chi et al. 2023). State and proprio are in metres, each 1000 of its pixels;
an action is the offset, in pixels, from the agent to the place that it is drawn to, as in DINO-WM.
So is success."""

import numpy as np
import pygame

from envs.pusht import PushExplorer, PushTask
from envs.worlds import GymnasiumWorld


class PushT(PushTask, GymnasiumWorld):
    world_id = "gym_pusht:gym_pusht/PushT-v0"
    bounds = (-40, -40), (40, 40)
    proprio_names = ("agent_x", "agent_y")
    state_names = (*proprio_names, "block_x", "block_y", "block_angle", "agent_vx", "agent_vy")

    def advance(self, action):
        super().advance(np.clip(self.world.agent.position + action, 0, 512))

    def get_state(self):
        agent, block = self.world.agent, self.world.block
        metres = np.array([*agent.position, *block.position, *agent.velocity]) / 1e3
        return np.insert(metres, 4, block.angle)

    def set_state(self, state):
        self.world._setup()  # a new simulator, which remembers no contact
        self.world.goal_pose = np.full(3, -1e3)  # outside the image
        agent, block = self.world.agent, self.world.block
        block.angle = state[4]  # before the position: it turns about the centre of mass
        agent.position, block.position = tuple(1e3 * state[:2]), tuple(1e3 * state[2:4])
        agent.velocity = tuple(1e3 * state[5:])
        for body in (agent, block):
            self.world.space.reindex_shapes_for_body(body)

    def render(self):
        small = pygame.transform.smoothscale(self.world._draw(), (self.image_size,) * 2)
        return pygame.surfarray.array3d(small).swapaxes(0, 1)

    def explore(self, policy, rng):
        push = PushExplorer(rng, max_step=0.02)
        return lambda obs, info: 2e3 * push(obs, info)
