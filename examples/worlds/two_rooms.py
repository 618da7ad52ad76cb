"""Two rooms, a wall and a door, after DINO-WM's Wall: bring the dot into the other room, to where
the goal image shows it, within 4.5. The world is 64 wide; a step is at most 4 along each axis."""

import numpy as np

from envs.random_walk import RandomWalk
from envs.simulator import SimulatorEnv

LOW, LEFT, RIGHT, HIGH = 4, 29, 35, 60  # of the dot's centre; LEFT and RIGHT touch the wall
DOOR = 34, 50


class TwoRooms(SimulatorEnv):
    state_names = proprio_names = ("x", "y")
    goal_offset_matters = False

    def __init__(self, image_size=112, render_mode="rgb_array"):
        super().__init__([-4, -4], [4, 4], image_size, render_mode)

    def begin(self, seed):
        x, y = self.np_random.uniform(LOW, [LEFT, HIGH])
        self.set_state([x if self.np_random.uniform() < 0.5 else 64 - x, y])

    def get_state(self):
        return np.array(self.state, float)

    def set_state(self, state):
        self.state = state

    def advance(self, action):
        x, y = np.clip(self.state + action, LOW, HIGH)
        if LEFT < x < RIGHT and not DOOR[0] <= self.state[1] <= DOOR[1]:
            x = LEFT if self.state[0] < 32 else RIGHT
        self.state = [x, np.clip(y, *DOOR) if LEFT < x < RIGHT else y]

    def render(self):
        y, x = (np.mgrid[: self.image_size, : self.image_size] + 0.5) * 64 / self.image_size
        image = np.full((*x.shape, 3), 240.0)
        image[(abs(x - 32) < 1) & (abs(y - 42) > 10)] = 60
        dot = np.clip(2.5 - np.hypot(x - self.state[0], y - self.state[1]), 0, 1)[..., None]
        return (image + dot * ([220, 60, 40] - image)).astype(np.uint8)

    def distance(self, states, goal):
        return np.square((states - goal) / 4.5).sum(-1)

    def sample_task(self, env_seed, goal_offset):
        start, (x, y) = super().sample_task(env_seed, goal_offset)
        return start, np.array([64 - x if (x < 32) == (start[0] < 32) else x, y])

    def explore(self, policy, rng):
        return RandomWalk(rng, self.action_space, persistence=8)
