"""Write the tables of README.md and docs/ from results/*.json.

python -m worldmodel.tables
python -m worldmodel.tables --check true
"""

from __future__ import annotations

import sys

from worldmodel.cli import parse_config, run
from worldmodel.measure import probe_tables
from worldmodel.measure.tables import (
    EVALUATION_KINDS,
    Kind,
    TablesConfig,
    one_after_another,
    update_tables,
)
from worldmodel.studies import anytime, bench_report, causal_report, disturbances, frontier
from worldmodel.training import decoder_training

KINDS: dict[str, Kind] = {
    **EVALUATION_KINDS,
    "probe": one_after_another(probe_tables.linear_probe_table),
    "distances": probe_tables.distance_table,
    "decoder": one_after_another(decoder_training.similarity_table),
    "causal": one_after_another(causal_report.intended_shift_table),
    "frontier": one_after_another(frontier.table),
    "anytime": one_after_another(anytime.table),
    "disturbances": one_after_another(disturbances.table),
    "bench": one_after_another(bench_report.table),
}


@run
def main(argv: list[str] | None = None) -> int:
    """Update the pages, or check them."""
    config = parse_config(TablesConfig, argv, "worldmodel.tables", "Write tables from results.")
    update = update_tables(config, KINDS)
    for path in update.changed:
        print(f"{'differs' if config.check else 'wrote'}: {path}")
    for name in update.missing:
        print(f"missing: {name}")
    return int(config.check and bool(update.changed or update.missing))


if __name__ == "__main__":
    sys.exit(main())
