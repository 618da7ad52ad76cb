"""Command line: see `worldmodel.measure.probing`."""

from __future__ import annotations

import sys
from pathlib import Path

from worldmodel.cli import (
    atomic_write_bytes,
    parse_config,
    run,
    writable_folder,
)
from worldmodel.data.dataset import open_dataset
from worldmodel.measure.linear_probe import save_probe
from worldmodel.measure.probe_tables import distance_table, draw, table
from worldmodel.measure.probe_targets import listed
from worldmodel.measure.probing import ProbeConfig, probe
from worldmodel.measure.provenance import save_result


@run
def main(argv: list[str] | None = None) -> None:
    """Probe, print tables, store probes, write files."""
    description = "Measure how much of the state frozen tokens and latents hold."
    config = parse_config(ProbeConfig, argv, "worldmodel.probe", description)
    if config.plots:
        writable_folder(Path(config.plots))
    result = probe(config)
    print(table(result))
    if "distances" in result:
        print("\n" + distance_table([result]))
    for name in listed(config.checkpoints) if config.save else ():
        dataset = open_dataset(config.data)
        settings = (config.targets, config.held_out, config.seed, config.device)
        print("\n" + save_probe(name, dataset, *settings))
    if config.out:
        save_result(config.out, result)
    plotted = {(row["source"], row["kind"]) for row in result["results"]} if config.plots else ()
    for source, kind in sorted(plotted):
        if kind in ("imagined", "layer"):
            path = Path(config.plots) / f"{Path(source).name}-{kind}.png"
            atomic_write_bytes(path, draw(result, source, kind))
            print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
