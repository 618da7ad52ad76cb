"""Measure how often an agent reaches its goals.

    python -m worldmodel.evaluate --env worldmodel/PushT-v0 --episodes 200 --out result.json

The protocol is in `worldmodel.measure.evaluation`.
"""

from __future__ import annotations

import sys

from worldmodel.cli import parse_config, run, writable_folder
from worldmodel.errors import UserError
from worldmodel.measure.evaluation import EvaluateConfig, evaluate
from worldmodel.measure.evaluation_table import evaluation_table
from worldmodel.measure.provenance import save_result
from worldmodel.models.checkpoint import record_evaluation


@run
def main(argv: list[str] | None = None) -> int | None:
    """Evaluate, write the JSON, print a table."""
    config = parse_config(EvaluateConfig, argv, "worldmodel.evaluate", "Evaluate an agent.")
    if config.out is not None and not config.out.parent.is_dir():
        raise UserError(f"cannot write {config.out}: there is no folder {config.out.parent}")
    if config.failures is not None:
        writable_folder(config.failures)
    result = evaluate(config)
    if config.out is not None:
        save_result(config.out, result, device=result["settings"]["device"])
    if config.record is not None:
        path = record_evaluation(result["checkpoint"], config.record, result)
        print(f"wrote {path}")
    print(evaluation_table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
