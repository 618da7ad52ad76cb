"""Command line: see `worldmodel.deploy.export`."""

from __future__ import annotations

import sys

from worldmodel.cli import parse_config, run
from worldmodel.deploy.export import ExportConfig, export
from worldmodel.deploy.guide import difference_table
from worldmodel.deploy.writing import README


@run
def main(argv: list[str] | None = None) -> None:
    """Export, and print how far the files differ from the model."""
    config = parse_config(ExportConfig, argv, "worldmodel.export", "Export encoder and predictor.")
    differences = export(config)
    print(f"wrote {config.out}: see {config.out / README}", file=sys.stderr)
    print(difference_table(differences))


if __name__ == "__main__":
    sys.exit(main())
