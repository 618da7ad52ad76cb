"""Calibrate the margins of guardrails.

    python -m worldmodel.calibrate --env worldmodel/PushT-v0 --guardrail no_go:disc=0.25:0.25:0.06

The method is in `worldmodel.measure.calibration`.
"""

from __future__ import annotations

import sys

from worldmodel.cli import parse_config, run
from worldmodel.cli.device import pick_device
from worldmodel.errors import UserError
from worldmodel.measure.calibration import CalibrateConfig, calibrate, calibration_table
from worldmodel.measure.provenance import save_result
from worldmodel.models.findings import FILES, bundled_for, finding_path


@run
def main(argv: list[str] | None = None) -> None:
    """Calibrate, store the margins, print a table."""
    config = parse_config(
        CalibrateConfig, argv, "worldmodel.calibrate", "Calibrate the margins of guardrails."
    )
    if config.out is not None and not config.out.parent.is_dir():
        raise UserError(f"cannot write {config.out}: there is no folder {config.out.parent}")
    found = calibrate(config)
    if config.out is not None:
        result = {"env": config.env, "seed": config.seed, "margins": list(found.values())}
        save_result(config.out, result, device=pick_device(config.device))
    print(calibration_table(found.values()))
    checkpoint = config.checkpoint or bundled_for(config.env)
    print(f"\nwrote {finding_path(checkpoint, FILES['calibration'])}")


if __name__ == "__main__":
    sys.exit(main())
