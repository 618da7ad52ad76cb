"""Two rooms, a wall and a door, after DINO-WM's Wall: bring the dot into the other room, to where
the goal image shows it, within 4.5. The world is 64 wide; a step is at most 4 along each axis."""

import numpy as np

from envs.random_walk import RandomWalk
from envs.simulator import SimulatorEnv

WIDTH, EDGE, WALL, GAP, DOOR = (
    64,
    4,
    32,
    3,
    (34, 50),
)  # the dot stays GAP from the wall, at x = WALL


class TwoRooms(SimulatorEnv):
    state_names = proprio_names = ("x", "y")
    goal_offset_matters = False

    def __init__(self, image_size=112, render_mode="rgb_array"):
        super().__init__([-4, -4], [4, 4], image_size, render_mode)

    def begin(self, seed):
        place = self.np_random.uniform(EDGE, [WALL - GAP, WIDTH - EDGE])
        self.set_state(place + self.np_random.integers(2) * np.array([WALL + GAP - EDGE, 0]))

    def get_state(self):
        return np.array(self.state, float)

    def set_state(self, state):
        self.state = state

    def advance(self, action):
        x, y = np.clip(self.state + action, EDGE, WIDTH - EDGE)
        if abs(x - WALL) < GAP and not DOOR[0] <= self.state[1] <= DOOR[1]:
            x = WALL + np.sign(self.state[0] - WALL) * GAP
        self.state = np.array([x, np.clip(y, *DOOR) if abs(x - WALL) < GAP else y])

    def render(self):
        y, x = (np.mgrid[: self.image_size, : self.image_size] + 0.5) * WIDTH / self.image_size
        image = np.full((*x.shape, 3), 240.0)
        image[(abs(x - WALL) < 1) & (abs(y - np.mean(DOOR)) > 10)] = 60
        dot = np.clip(2.5 - np.hypot(x - self.state[0], y - self.state[1]), 0, 1)[..., None]
        return (image + dot * ([220, 60, 40] - image)).astype(np.uint8)

    def distance(self, states, goal):
        return np.square((states - goal) / 4.5).sum(-1)

    def sample_task(self, env_seed, goal_offset):
        start, (x, y) = super().sample_task(env_seed, goal_offset)
        return start, np.array([WIDTH - x if (x < WALL) == (start[0] < WALL) else x, y])

    def explore(self, policy, rng):
        return RandomWalk(rng, self.action_space, persistence=8)
