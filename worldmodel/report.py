"""Command line: see `worldmodel.studies.report.report`."""

from __future__ import annotations

import sys

from worldmodel.cli import atomic_write_text, parse_config, run, warn
from worldmodel.errors import UserError
from worldmodel.studies.report.report import ReportConfig, report

LARGE = 50e6  # bytes; browsers are slow to show more


@run
def main(argv: list[str] | None = None) -> None:
    """Gather, write the page, print its size."""
    description = "Write all that is known about a model to one HTML page."
    config = parse_config(ReportConfig, argv, "worldmodel.report", description)
    if not config.out.parent.is_dir():
        raise UserError(f"cannot write {config.out}: there is no folder {config.out.parent}")
    page = report(config)
    atomic_write_text(config.out, page)
    size = len(page.encode())
    if size > LARGE:
        warn(
            f"{config.out} has {size / 1e6:.0f} MB, which browsers are slow to show: give "
            "fewer --gifs"
        )
    print(f"wrote {config.out} ({size / 1e6:.1f} MB)")


if __name__ == "__main__":
    sys.exit(main())
