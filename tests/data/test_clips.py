"""The sampler of clips, on made-up episodes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from worldmodel.data.clips import ClipSampler, choose, spaced_frames
from worldmodel.errors import UserError

SKIP = 3


def logs(lengths: list[int], hold: Any = None) -> Any:
    """A dataset whose proprio and actions are the indices of their frames."""
    offsets = np.concatenate([[0], np.cumsum(np.array(lengths) + 1)])
    index = np.arange(offsets[-1], dtype=np.float32)[:, None]
    actions = index.copy()
    actions[offsets[1:] - 1] = np.nan
    bounds = {"action_low": np.float32([-1]), "action_high": np.float32([1])}
    lengths_ = np.array(lengths)
    return SimpleNamespace(
        path="logs",
        episodes=len(lengths),
        lengths=lengths_,
        offsets=offsets,
        proprio=index,
        actions=actions,
        hold=hold,
        **bounds,
    )


def test_clips_are_padded_with_the_hold_action() -> None:
    data = [logs([8, 20]), logs([5, 40, 9], hold=[0.5])]
    sampler = ClipSampler(data, SKIP)
    episodes = choose(data, [np.arange(2), np.arange(3)], SKIP)
    clips = sampler.draw(episodes, 400, 4, np.random.default_rng(0))
    assert clips.frames.shape == (400, 4) and set(clips.source) == {0, 1}
    assert np.array_equal(clips.proprio[..., 0], clips.frames)
    actions = clips.actions.reshape(400, -1).numpy()
    for source, frames, taken in zip(clips.source, clips.frames, actions, strict=True):
        dataset = data[source]
        episode = np.searchsorted(dataset.offsets, frames[0], "right") - 1
        first, end = dataset.offsets[episode], dataset.offsets[episode + 1] - 1
        assert first <= frames[0] and frames[-1] <= end  # one episode
        hold = 0.5 if source else 0.0
        recorded = taken[taken != hold]
        assert np.array_equal(np.diff(recorded), np.ones(len(recorded) - 1))
        inside = (frames[1:] - frames[:-1]) == SKIP
        for start, whole, window in zip(frames[:-1], inside, taken.reshape(3, -1), strict=True):
            if whole:
                assert np.array_equal(window, start + np.arange(SKIP))


def test_clips_may_be_kept_from_beginning_before_their_episode() -> None:
    data = [logs([20, 20])]
    sampler = ClipSampler(data, SKIP)
    episodes = choose(data, [np.arange(2)], SKIP)
    inside = sampler.draw(episodes, 300, 4, np.random.default_rng(0), before=0)
    assert (np.diff(inside.frames) == SKIP).all()
    anywhere = sampler.draw(episodes, 300, 4, np.random.default_rng(0))
    assert (np.diff(anywhere.frames) < SKIP).any()


def test_hold_repeat_pads_with_the_nearest_action() -> None:
    data = logs([4], hold="repeat")
    clips = ClipSampler([data], SKIP).draw(
        choose([data], [[0]], 1), 50, 3, np.random.default_rng(0)
    )
    actions = clips.actions.numpy()
    assert actions.min() == 0.0 and actions.max() == 3.0
    assert np.array_equal(actions, np.clip(actions, 0, 3)) and len(np.unique(actions)) == 4


def test_distinct_clips_lie_inside_the_chosen_episodes() -> None:
    data = logs([7, 6, 5, 12])
    sampler = ClipSampler([data], SKIP)
    episodes = choose([data], [[3, 0, 2]], SKIP)
    clips = sampler.draw_distinct(episodes, 1000, 3, np.random.default_rng(0))
    # Starts 0 and 1 of the first episode, none of the third, 0 to 6 of the last.
    assert clips.frames[:, 0].tolist() == [0, 1, *range(21, 28)]
    assert (np.diff(clips.frames) == SKIP).all()
    assert np.array_equal(clips.actions.reshape(9, -1)[0], np.arange(6))
    some = sampler.draw_distinct(episodes, 4, 3, np.random.default_rng(0)).frames[:, 0]
    assert len(some) == 4 and (np.diff(some) > 0).all()
    with pytest.raises(UserError, match="no episode of logs has 15 actions"):
        sampler.draw_distinct(episodes, 4, 6, np.random.default_rng(0))


def test_spaced_frames_are_even_and_know_their_neighbours() -> None:
    data = [logs([8, 3]), logs([5])]
    source, frames, follows = spaced_frames(choose(data, [[0, 1], [0]], 1), 7)
    assert source.tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert frames.tolist() == [0, 3, 6, 9, 12, 0, 3]
    assert follows.tolist() == [True, True, False, True, False, True]


def test_a_split_without_long_episodes_is_an_error() -> None:
    with pytest.raises(UserError, match="have at least 3 steps"):
        ClipSampler([logs([2, 2, 2])], SKIP).split(0.3)
