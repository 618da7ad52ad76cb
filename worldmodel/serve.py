"""Plan for robots over websockets.

python -m worldmodel.serve --checkpoint runs/robot/checkpoint --goal goal.png --agent.budget_ms 60
"""

from __future__ import annotations

import sys

from worldmodel.cli import parse_config, run
from worldmodel.deploy.robot_server import RobotServer, ServeConfig


@run
def main(argv: list[str] | None = None) -> None:
    """Serve until Ctrl-C."""
    config = parse_config(ServeConfig, argv, "worldmodel.serve", "Plan for robots over websockets.")
    server = RobotServer(config)
    print(f"serving on ws://{config.host}:{server.port}; Ctrl-C ends the server", flush=True)
    try:
        server.run()
    finally:
        server.close()


if __name__ == "__main__":
    sys.exit(main())
