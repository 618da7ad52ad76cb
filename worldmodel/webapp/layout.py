"""The widgets of a tab, and how they show a session. What happens on events is in `page`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from nicegui import ui
from numpy.typing import NDArray

from worldmodel.measure.episode import EpisodeLog
from worldmodel.webapp import view
from worldmodel.webapp.scenes import SceneChoice
from worldmodel.webapp.session import LARGEST_UPLOAD, Session

Array = NDArray[Any]
REFUSED = f"refused: a goal is a PNG file of at most {LARGEST_UPLOAD // 10**6} MB"


class Events(Protocol):
    """What the widgets call."""

    async def open(self) -> None:
        """Another scene is chosen."""

    async def draw_task(self) -> None:
        """Another seed is chosen."""

    async def act(self) -> None:
        """Plan."""

    def halt(self) -> None:
        """Stop."""

    async def restart(self) -> None:
        """Reset."""

    async def draw(self, event: Any) -> None:
        """The mouse over reality."""

    async def clear(self) -> None:
        """Clear regions."""

    async def drag(self, event: Any) -> None:
        """The mouse over the goal."""

    async def upload(self, event: Any) -> None:
        """A file for the goal."""

    async def rotate(self, event: Any) -> None:
        """The slider below the goal."""


class Layout:
    """All widgets of a tab."""

    def __init__(self, titles: Sequence[str], events: Events) -> None:
        ui.colors(primary=view.BLUE, negative=view.VERMILION)
        ui.add_css(view.STYLE)
        ui.query(".nicegui-content").classes("p-4 gap-3")
        with ui.row().classes("items-center gap-3"):
            self._build_controls(titles, events)
        with ui.row().classes("w-full items-start gap-5 no-wrap"):
            with ui.column().classes("panel"):
                clear = self._build_reality(events)
            with ui.column().classes("panel"):
                upload = self._build_goal(events)
            with ui.column().classes("status grow gap-3"):
                self.status = ui.html("", sanitize=False)
                chart = ui.echart(view.chart_options(EpisodeLog()), renderer="svg")
                self.chart = chart.classes("w-full h-64")
        with ui.column().classes("w-full gap-1 imagination"):
            self.imagination = _heading("Imagination")
            self.frames = ui.html("", sanitize=False)
        self.settings = [self.plan, self.margin, clear, upload, self.angle]

    def _build_controls(self, titles: Sequence[str], events: Events) -> None:
        ui.label("worldmodel").classes("text-lg font-bold")
        self.pick = ui.select([*titles], value=titles[0], label="environment")
        self.pick.props("dense outlined").classes("w-44").on_value_change(events.open)
        self.seed = _number("seed of start and goal", 0, 0, 10**6, "w-44").props("debounce=400")
        self.seed.on_value_change(events.draw_task)
        self.count = _number("steps", 50, 1, 1000, "w-24")
        self.plan = ui.button("Plan", icon="play_arrow", on_click=events.act)
        self.stop = ui.button("Stop", icon="stop", on_click=events.halt).props("outline")
        ui.button("Reset", icon="replay", on_click=events.restart).props("outline")
        self.busy = ui.spinner(size="sm")

    def _build_reality(self, events: Events) -> ui.button:
        self.rule = _heading("Reality")
        self.reality = _picture("reality", events.draw)
        with ui.row().classes("items-center gap-2"):
            self.margin = _number("margin, mm", 0, 0, 500, "w-28")
            return ui.button("Clear regions", on_click=events.clear).props("outline")

    def _build_goal(self, events: Events) -> ui.button:
        self.hint = _heading("Goal")
        self.goal = _picture("goal", events.drag)
        with ui.row().classes("w-full items-center gap-4 no-wrap"):
            self.file = ui.upload(
                auto_upload=True,
                max_file_size=LARGEST_UPLOAD,
                on_upload=events.upload,
                on_rejected=lambda: self.say(REFUSED),
            )
            self.file.props("accept=.png").classes("hidden")
            pick_file = f"() => getElement({self.file.id}).$refs.qRef.pickFiles()"
            upload = ui.button("Upload an image", icon="upload").props("outline no-wrap")
            upload.on("click", js_handler=pick_file)
            self.angle = ui.slider(min=-180, max=180, value=0).classes("angle")
            self.angle.props("label").on("update:model-value", events.rotate, throttle=0.1)
        return upload

    def show_scene(self, choice: SceneChoice) -> None:
        """Show the settings and hints of a scene."""
        scene = choice.scene
        self.count.value, self.margin.value = scene.steps, 1e3 * scene.margin
        self.hint.set_text(scene.hint)
        self.rule.set_text(
            f"Drag a rectangle to keep {scene.robot} out of it (dashed: its margin). "
            "Blue: the plan."
        )

    def show(self, session: Session, corners: Sequence[Array], running: bool) -> None:
        """Show the session; `corners`: of the rectangle that the user is drawing."""
        self.stop.set_enabled(running)
        for widget in self.settings:
            widget.set_enabled(not running)
        for picture in (self.reality, self.goal):
            picture.style(f"cursor: {'not-allowed' if running else 'crosshair'}")
        self.reality.set_source(view.data_url(session.log.frames[-1]))
        self.goal.set_source(view.data_url(session.goal))
        self.show_overlay(session, corners)
        self.angle.set_visibility(session.turnable is not None)
        if session.turnable is not None:
            self.angle.set_value(round(session.degrees))
        self.status.set_content(view.status_table(session, int(self.count.value or 1), running))
        self.chart.options.update(view.chart_options(session.log))
        self.chart.update()
        self.imagination.set_text(view.imagination_text(session))
        self.frames.set_content(view.imagined_frames(session))

    def show_overlay(self, session: Session, corners: Sequence[Array]) -> None:
        """Draw regions, the plan and the user's rectangle over reality."""
        self.reality.set_content(view.overlay(session, corners))

    def say(self, message: str, kind: Literal["negative", "warning"] = "negative") -> None:
        """Show an error message, or a warning, for a while."""
        ui.notify(message, type=kind, position="bottom", timeout=8000)


def _number(label: str, value: int, low: int, high: int, width: str) -> ui.number:
    field = ui.number(label, value=value, min=low, max=high, precision=0)
    return field.props("dense outlined").classes(width)


def _heading(title: str) -> ui.label:
    """A title, and the line below it, which is returned."""
    ui.html(f"<h2>{title}</h2>", sanitize=False)
    return ui.label().classes("hint")


def _picture(name: str, on_mouse: Callable[..., object]) -> ui.interactive_image:
    events = ["mousedown", "mousemove", "mouseup"]
    image = ui.interactive_image(on_mouse=on_mouse, events=events, sanitize=False)
    return image.classes(f"picture {name}")
