"""Pictures of episodes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

import worldmodel
from worldmodel.measure.episode import EpisodeLog
from worldmodel.measure.episode_pictures import draw_costs, episode_film
from worldmodel.measure.film import Film, Imagination, animate, as_gif, as_mp4, tiled


def test_pictures_of_an_interrupted_run_are_whole() -> None:
    frames = [np.full((112, 112, 3), 40 * i, np.uint8) for i in range(3)]
    for count in (1, 3):
        pictures = animate(Film(frames[:count], frames[0], first_success=1))
        gif: Any = Image.open(io.BytesIO(as_gif(pictures)))
        assert gif.n_frames == len(pictures) == count
    cut = EpisodeLog(distances=[1.0], distance_steps=[0], costs=[2.0], plan_steps=[])
    for log in (EpisodeLog(), cut):
        assert Image.open(io.BytesIO(draw_costs(log))).width > 100


def test_a_film_shows_the_imagination_of_the_latest_plan() -> None:
    def flat(value: int) -> Any:
        return np.full((112, 112, 3), value, np.uint8)

    plans = [Imagination(0, np.stack([flat(100), flat(110)]), 5)]
    plans += [Imagination(2, np.stack([flat(200), flat(210)]), 5, feasible=False)]
    film = Film([flat(50)] * 4, flat(60), imagined=plans, distances=[(0, 1.0), (2, 0.5)])
    pictures = animate(film)
    assert {picture.size for picture in pictures} == {pictures[0].size}
    ends = zip(pictures, (100, 100, 200, 200), (110, 110, 210, 210), strict=True)
    for picture, first, second in ends:
        # The middle pixel of reality, of the goal, and of the two imagined frames.
        found = [picture.getpixel(at)[0] for at in ((128, 128), (384, 128), (56, 360), (168, 360))]
        assert found == [50, 60, first, second]
    # An infeasible plan has a vermilion note.
    written = [(213, 94, 0) in {c for _, c in p.getcolors(1 << 16)} for p in pictures]
    assert written == [False, False, True, True]
    with av.open(io.BytesIO(as_mp4(pictures, fps=2))) as file:
        shown = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert len(shown) == 4 + 2  # the last frame stays for a second
    assert abs(int(shown[3][360, 56, 0]) - 200) < 8


def test_an_episode_that_was_stopped_before_its_first_plan_can_be_drawn(checkpoint: Path) -> None:
    rule = "no_go:x=0.1:0.2,y=0.1:0.2"
    agent = worldmodel.load(checkpoint, guardrails=(rule,))
    frame = np.zeros((112, 112, 3), np.uint8)
    agent.reset(frame)
    (picture,) = animate(
        episode_film(agent, None, EpisodeLog(frames=[frame]), frame, None, [], lambda at: at)
    )
    assert picture.width >= 512


def test_goals_are_tiled() -> None:
    images = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (10, 20, 30)])
    assert (tiled(images[:1]) == images[0]).all()
    corners = tiled(images)[::7, ::7, 0]
    assert corners.tolist() == [[10, 20], [30, 255]]
