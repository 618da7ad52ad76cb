"""A web page to set a goal by hand, draw forbidden regions, and watch the planner.

    python -m worldmodel.app

and open http://127.0.0.1:8080. The page shows reality and the model's predictions side by side. It
needs NiceGUI: ``pip install 'worldmodel[app]'``.
"""

from __future__ import annotations

import sys

from worldmodel.cli import parse_config, run
from worldmodel.webapp.server import AppConfig, serve


@run
def main(argv: list[str] | None = None) -> int | None:
    """Serve the page until Ctrl-C."""
    serve(parse_config(AppConfig, argv, "worldmodel.app", "A page to set goals and watch plans."))
    return 0


if __name__ == "__main__":
    sys.exit(main())
