"""Pieces of an HTML page that needs nothing else: no network, no script, no file beside it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

RC: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.08,
    "svg.hashsalt": "worldmodel",  # the same plot is the same file
}
STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --faint: #5c5c5c; --line: #ccc;
  --band: #f3f4f6; --link: #0059a0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #16181c; --faint: #a8a8a8;
  --line: #41454d; --band: #22252b; --link: #7cc0f5; } }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem; font: 1rem/1.55 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { margin-top: 2.8rem; font-size: 1.35rem;
  border-bottom: 1px solid var(--line); } h3 { margin-top: 1.8rem; font-size: 1.1rem; }
a { color: var(--link); } p { max-width: 46rem; }
code, pre { font: 0.86em/1.45 ui-monospace, monospace; overflow-wrap: anywhere; }
pre { overflow-x: auto; padding: 0.8rem; background: var(--band); }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
caption, figcaption { color: var(--faint); font-size: 0.9rem; text-align: left; }
caption { padding-bottom: 0.3rem; }
th, td { padding: 0.25rem 0.55rem; vertical-align: top; border-bottom: 1px solid var(--line);
  text-align: right; }
th { font-weight: 600; } tbody th { font-weight: 400; }
th.text, td.text { text-align: left; overflow-wrap: break-word; }
tbody th[scope=rowgroup] { background: var(--band); text-align: left; }
tbody th[scope=rowgroup] b { font-weight: 600; }
.facts th { color: var(--faint); white-space: nowrap; } .facts td { text-align: left;
  overflow-wrap: anywhere; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; background: #fff; }
.gifs { display: grid; gap: 0 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(24rem, 1fr)); }
.missing { border-left: 3px solid var(--line); padding-left: 0.8rem; color: var(--faint);
  max-width: none; } .missing code { display: block; }
@media print { body { max-width: none; padding: 0; } tr, figure { break-inside: avoid; }
  .wide { overflow: visible; } table { font-size: 0.75rem; } }
@media (max-width: 30rem) { .gifs { grid-template-columns: 1fr; } }
"""


def table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    text: int = 1,
    fold: float = math.inf,
) -> str:
    """A table of plain text; the first `text` columns are words, the rest numbers. A row of one
    cell is the heading of those below it: a name, and what is said of it on a second line. More
    than `fold` rows are folded up."""
    kind = [' class="text"' if column < text else "" for column in range(len(head))]
    top = [f'<th scope="col"{k}>{escape(name)}</th>' for name, k in zip(head, kind, strict=True)]
    body = ""
    for row in rows:
        cells = [escape(str(cell)) for cell in row]
        if len(cells) == 1:
            name, _, rest = cells[0].partition("\n")
            body += "</tbody>\n<tbody>" if body else ""
            body += f'<tr><th scope="rowgroup" colspan="{len(head)}"><b>{name}</b> {rest}</th></tr>'
        else:
            body += f'<tr><th scope="row"{kind[0]}>{cells[0]}</th>'
            body += "".join(f"<td{k}>{c}</td>" for c, k in zip(cells[1:], kind[1:], strict=True))
            body += "</tr>\n"
    whole = (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption>\n<thead><tr>{''.join(top)}</tr></thead>\n"
        f"<tbody>{body}</tbody></table></div>\n"
    )
    if len(rows) <= fold:
        return whole
    return f"<details><summary>{escape(caption)}: {len(rows)} rows</summary>\n{whole}</details>\n"


def picture(kind: str, content: bytes, alt: str, caption: str) -> str:
    """A figure within the page; `kind` is its media type."""
    data = base64.b64encode(content).decode()
    return (
        f'<figure><img src="data:{kind};base64,{data}" alt="{escape(alt)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def missing(what: str, *commands: str) -> str:
    """One line about what is not there, and the commands that make it."""
    said = " or ".join(f"<code>{escape(command)}</code>" for command in commands)
    return f'<p class="missing">{escape(what)}{f" To make it: {said}" if said else ""}</p>\n'


def plot(width: float, height: float, draw: Callable[[Any], None]) -> bytes:
    """An SVG, sizes in inches, of what `draw` draws on a matplotlib Figure."""
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].encode()  # without the address of a document type


def plain(name: object) -> str:
    """A name for a plot: its end if it is long; and where dollars would begin a formula, they do
    not."""
    text = str(name)
    text = text if len(text) <= 60 else f"... {text[-56:]}"
    return text.replace("$", r"\$")


def assemble(title: str, top: str, sections: dict[str, str]) -> str:
    """The page: `top` and `sections`, title -> content, are HTML already."""
    links = "".join(f'<li><a href="#{part.lower()}">{part}</a></li>' for part in sections)
    body = "".join(
        f'<section><h2 id="{part.lower()}">{part}</h2>\n{content}</section>\n'
        for part, content in sections.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1>\n{top}</header>\n"
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n<main>\n{body}</main>\n'
        "</body>\n</html>\n"
    )
