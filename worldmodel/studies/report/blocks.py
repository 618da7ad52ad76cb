"""Pieces of a section of the page, as data. ``templates/report.html.jinja`` renders them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: its title.
        head: names of the columns.
        rows: cells. A row of one cell is the heading of the rows below it: a name, and a second
            line with more about it.
        text: number of first columns that hold text; the others hold numbers.
        fold: more rows than this are folded.
    """

    kind: ClassVar = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    text: int = 1
    fold: int | None = None

    @property
    def folded(self) -> bool:
        """Whether the page shows the table only after a click."""
        return self.fold is not None and len(self.rows) > self.fold


@dataclass(frozen=True)
class Picture:
    """An image within the page.

    Attributes:
        media_type: such as "image/gif".
        content: the file.
        alt: description for people who do not see it.
        caption: text below it.
    """

    kind: ClassVar = "picture"
    media_type: str
    content: bytes
    alt: str
    caption: str

    @property
    def source(self) -> str:
        """A data URL."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True)
class Missing:
    """A note that a result is missing, with the commands that make it."""

    kind: ClassVar = "missing"
    text: str
    commands: Sequence[str] = ()


@dataclass(frozen=True)
class Paragraph:
    """A paragraph."""

    kind: ClassVar = "paragraph"
    text: str


@dataclass(frozen=True)
class Heading:
    """A heading below the section's title."""

    kind: ClassVar = "heading"
    text: str


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side."""

    kind: ClassVar = "gallery"
    pictures: Sequence[Picture] = field(default_factory=tuple)


@dataclass(frozen=True)
class Listing:
    """Folded preformatted text."""

    kind: ClassVar = "listing"
    summary: str
    text: str


ReportBlock = Table | Picture | Missing | Paragraph | Heading | Gallery | Listing
