"""Exploration policies."""

from __future__ import annotations

from typing import Any

import numpy as np
from make import Make
from worlds import each, explore

from envs.exploration import explorer


def test_exploration_strokes_aim_at_chips_and_wild_ones_go_anywhere(make: Make) -> None:
    env = make("GranularChips", chips=5, image_size=16)
    touched: dict[str, list[bool]] = {"explore": [], "wild": []}
    longest = dict.fromkeys(touched, 0.0)
    for name, seen in touched.items():
        policy = explorer(env, name, np.random.default_rng(0))
        obs, info = env.reset(seed=0)
        for _ in range(30):
            stroke = policy(obs, info)
            longest[name] = max(longest[name], float(np.linalg.norm(stroke[2:] - stroke[:2])))
            obs, _, _, _, info = env.step(stroke)
            seen.append(info["contact"])
    assert np.mean(touched["explore"]) > 0.9 > np.mean(touched["wild"]) > 0.5
    assert longest["explore"] < 0.27 < 0.4 < longest["wild"]


def test_exploration_touches_the_block_most_of_the_time_and_keeps_it_off_the_walls(
    make: Make,
) -> None:
    env = make("PushT", image_size=16)
    world: Any = env.unwrapped
    touched, jammed = [], []
    for seed in range(10):
        infos = [info for _, info in explore(env, seed, 100)[1][1:]]
        for info in infos:
            world.set_state(info["state"])
            pairs = world.data.contact.geom.tolist()
            jammed.append(any(world._block & set(p) and world._tip not in p for p in pairs))
        contacts = [info["contact"] for info in infos]
        touched += contacts[contacts.index(True) :]  # it has to get there first
    assert np.mean(touched) > 0.5
    assert np.mean(jammed) < 0.25


def test_wild_exploration_goes_anywhere_and_still_pushes(make: Make) -> None:
    """Pushes lead to the block; bursts as often away from it."""
    env = make("PushT", image_size=16)
    contact, away = {}, {}
    for name in ("explore", "wild"):
        touched, leaving = [], []
        for seed in range(10):
            policy = explorer(env, name, np.random.default_rng(seed))
            obs, info = env.reset(seed=seed)
            for _ in range(100):
                action = policy(obs, info)
                to_block = info["state"][2:4] - info["state"][:2]
                cosine = action @ to_block / np.linalg.norm(action) / np.linalg.norm(to_block)
                leaving.append(cosine < -0.3)
                obs, _, _, _, info = env.step(action)
                touched.append(info["contact"])
        contact[name], away[name] = np.mean(touched), np.mean(leaving)
    assert away["wild"] > 1.5 * away["explore"]
    assert 0.2 < contact["wild"] < contact["explore"]


@each
def test_policies_stay_within_bounds_and_repeat(
    make: Make, name: str, kwargs: dict[str, Any]
) -> None:
    env = make(name, image_size=16, **kwargs)
    for policy_name in env.unwrapped.policies:
        episodes = []
        for _ in range(2):
            policy = explorer(env, policy_name, np.random.default_rng(0))
            obs, info = env.reset(seed=0)
            episodes.append([])
            for _ in range(15):
                action = policy(obs, info)
                assert env.action_space.contains(action)
                episodes[-1].append(action)
                obs, _, _, _, info = env.step(action)
        np.testing.assert_array_equal(episodes[0], episodes[1])
