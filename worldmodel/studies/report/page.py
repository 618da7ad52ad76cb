"""Rendering of the page. It needs nothing else: no network, no script, no file beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jinja2

from worldmodel.studies.report.blocks import ReportBlock

TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("worldmodel.studies.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_report(
    title: str, facts: Mapping[str, str], sections: Mapping[str, Sequence[ReportBlock]]
) -> str:
    """The page as HTML.

    Args:
        title: of the page.
        facts: table at the top, name to value.
        sections: title to content, in order.
    """
    template = TEMPLATES.get_template("report.html.jinja")
    return template.render(title=title, facts=facts, sections=sections).lstrip() + "\n"
