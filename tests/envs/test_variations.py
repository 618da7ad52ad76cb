"""Variations change the look or the friction of an episode."""

from __future__ import annotations

from typing import Any

import numpy as np
from make import Make
from worlds import each, explore


@each
def test_variations_change_only_look_or_friction_until_the_next_reset(
    make: Make, name: str, kwargs: dict[str, Any]
) -> None:
    env = make(name, **kwargs)
    world: Any = env.unwrapped
    usual, info = env.reset(seed=2)
    actions = explore(env, 2, 20)[0]  # these touch the block
    path = world.physics(info["state"], np.stack(actions))
    for variation in world.variations:
        options = {"variation": variation}
        (changed, changed_info), (again, _) = (env.reset(seed=2, options=options) for _ in range(2))
        np.testing.assert_array_equal(changed["pixels"], again["pixels"])
        for key in ("state", "goal_state"):
            np.testing.assert_array_equal(changed_info[key], info[key])
        looks_same = np.array_equal(changed["pixels"], usual["pixels"])
        moves_same = np.array_equal(world.physics(info["state"], np.stack(actions)), path)
        assert (looks_same, moves_same) == (variation == "friction", variation != "friction")
        np.testing.assert_array_equal(world.render_state(info["state"]), changed["pixels"])
    after, _ = env.reset(seed=2)
    np.testing.assert_array_equal(after["pixels"], usual["pixels"])
    np.testing.assert_array_equal(world.physics(info["state"], np.stack(actions)), path)


def test_variations_combine_and_differ_between_episodes(make: Make) -> None:
    env = make("PushT")
    both = {"variation": ["background", "object"]}
    first, second = (env.reset(seed=seed, options=both)[0]["pixels"] for seed in (0, 1))
    corner = (slice(0, 8), slice(0, 8))
    assert (first[corner] != second[corner]).any()
    alone, _ = env.reset(seed=0, options={"variation": "background"})
    np.testing.assert_array_equal(alone["pixels"][corner], first[corner])
    assert (alone["pixels"] != first).any()
