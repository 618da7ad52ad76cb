"""Command line: see `worldmodel.measure.prediction_errors`."""

from __future__ import annotations

import sys

from worldmodel.cli import parse_config, run, writable_folder
from worldmodel.measure.prediction_errors import SurpriseConfig, measure_surprise, quantile_table
from worldmodel.measure.provenance import save_result
from worldmodel.models.findings import FILES, finding_path


@run
def main(argv: list[str] | None = None) -> None:
    """Measure usual prediction errors, store them with the checkpoint, print a table."""
    description = "Measure how large prediction errors usually are, and store it."
    config = parse_config(SurpriseConfig, argv, "worldmodel.surprise", description)
    if config.out is not None:
        writable_folder(config.out.parent)
    result = measure_surprise(config)
    print(quantile_table(result))
    print(f"\nwrote {finding_path(result['checkpoint'], FILES['surprise'])}")
    if config.out is not None:
        save_result(config.out, result)


if __name__ == "__main__":
    sys.exit(main())
