"""A tab of the page: it turns events of the widgets into calls of the session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldmodel.errors import UserError
from worldmodel.webapp.layout import REFUSED, Layout
from worldmodel.webapp.scenes import SceneChoice
from worldmodel.webapp.session import LARGEST_UPLOAD, Session

Array = NDArray[Any]
SECONDS_PER_STEP = 0.1  # at least, so that people can follow


class Tab:
    """One open page: its widgets, its session, and the thread that the session lives in."""

    def __init__(self, choices: dict[str, SceneChoice], device: str = "auto") -> None:
        self.choices, self.device = choices, device
        self.worker = ThreadPoolExecutor(1, "session")
        self.session: Session | None = None
        self.running: object | None = None  # identifies the current run
        self.opening = 0  # number of sessions being made
        self.closed = False
        self.corners: list[Array] = []  # of the rectangle that the user is drawing
        self.dragged: str | None = None  # object that the user is dragging in the goal
        self.target: Array | None = None  # latest place of the mouse while dragging
        self.layout = Layout([*choices], self)

    def show(self) -> None:
        """Show the current state of the session."""
        if self.session is not None and not self.closed:
            self.layout.show(self.session, self.corners, self.running is not None)

    async def do(self, job: Callable[..., object], *arguments: Any) -> bool:
        """Run `job` in the session's thread, then show the result; False if it failed."""
        if self.closed:
            return False
        try:
            await asyncio.get_running_loop().run_in_executor(self.worker, job, *arguments)
        except UserError as error:
            if not self.closed:
                self.layout.say(str(error))
            return False
        self.show()
        return True

    def idle_session(self, stop: bool = False) -> Session | None:
        """The session, or None while it runs or is being replaced; `stop` ends a run."""
        if stop:
            self.running = None
        return None if self.running is not None or self.opening else self.session

    # Events --------------------------------------------------------------------------------

    async def open(self) -> None:
        """Make the session of the chosen scene."""
        self.running = None
        choice = self.choices[self.layout.pick.value]
        self.layout.show_scene(choice)
        seed = int(self.layout.seed.value or 0)

        def replace() -> None:
            self._end()
            self.session = Session(choice, seed, self.device)

        self.opening += 1
        self.layout.busy.set_visibility(True)
        try:
            await self.do(replace)
        finally:
            self.opening -= 1
            self.layout.busy.set_visibility(self.opening > 0)

    async def draw_task(self) -> None:
        """Take the start and goal of the chosen seed."""
        seed = self.layout.seed.value
        if seed is not None and (session := self.idle_session(stop=True)) is not None:
            await self.do(session.draw_task, int(seed))

    async def act(self) -> None:
        """Run the agent for the chosen number of steps, or until `halt`."""
        if (session := self.idle_session()) is None:
            return
        run = self.running = object()
        steps = int(self.layout.count.value or 1)
        try:
            going = await self.do(session.begin, steps)
            for sentence in session.warnings if going else ():
                self.layout.say(sentence, "warning")
            while going and self.running is run and session.steps < steps:
                begun = time.monotonic()
                going = await self.do(session.step)
                await asyncio.sleep(max(0.0, begun + SECONDS_PER_STEP - time.monotonic()))
        finally:
            if self.running is run:
                self.running = None
            self.show()

    def halt(self) -> None:
        """End the run after the current step."""
        self.running = None

    async def restart(self) -> None:
        """End the run and put the environment back to the start."""
        if (session := self.idle_session(stop=True)) is not None:
            await self.do(session.restart)

    async def draw(self, event: Any) -> None:
        """Draw a region: from where the mouse is pressed to where it is released."""
        if (session := self.idle_session()) is None:
            return
        place = np.array([event.image_x, event.image_y]) / session.info.image_size
        if event.type == "mousedown":
            self.corners = [place]
        elif self.corners and event.buttons & 1:
            self.corners = [self.corners[0], place]
            self.layout.show_overlay(session, self.corners)
        elif self.corners:  # released, perhaps outside the image
            corners, self.corners = [*self.corners, place][:2], []
            margin = (self.layout.margin.value or 0) / 1e3
            if not await self.do(session.add_region, *corners, margin):
                self.layout.show_overlay(session, self.corners)

    async def clear(self) -> None:
        """Remove all regions."""
        if (session := self.idle_session()) is not None:
            await self.do(session.clear_regions)

    async def drag(self, event: Any) -> None:
        """Drag the nearest object of the goal."""
        if (session := self.idle_session()) is None:
            return
        place = np.array([event.image_x, event.image_y]) / session.info.image_size
        if event.type == "mousedown":
            self.dragged = session.nearest_movable(place)
        elif not event.buttons & 1:
            self.dragged = None
        elif (name := self.dragged) is not None:
            moving, self.target = self.target is not None, place
            while not moving and self.target is not None:  # skip places that the mouse has left
                place = self.target
                await self.do(session.move, name, place)
                if self.target is place:
                    self.target = None

    async def rotate(self, event: Any) -> None:
        """Turn the goal's object to the slider's angle."""
        if (session := self.idle_session()) is not None:
            await self.do(session.turn, float(event.args))

    async def upload(self, event: Any) -> None:
        """Take the uploaded file for the goal."""
        self.layout.file.reset()
        if event.file.size() > LARGEST_UPLOAD:  # the browser's own check can be circumvented
            self.layout.say(REFUSED)
        elif (session := self.idle_session()) is not None:
            await self.do(session.upload, await event.file.read(), event.file.name)

    # The end -------------------------------------------------------------------------------

    def _end(self) -> None:
        if self.session is not None:
            self.session.close()
        self.session = None

    def close(self) -> None:
        """End the run and close the environment, in the session's thread."""
        if self.closed:
            return
        self.closed, self.running = True, None
        self.worker.submit(self._end)
        self.worker.shutdown(wait=False)
