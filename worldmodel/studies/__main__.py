"""Command line of the studies.

python -m worldmodel.studies --help
python -m worldmodel.studies causal --data data/pusht --out out/causal.json
"""

from __future__ import annotations

import difflib
import importlib
import sys

from worldmodel.cli import atomic_write_bytes, parse_config, run, writable_folder
from worldmodel.errors import UserError

STUDIES = {
    "causal": "edit positions in latents, and check that the imagined future moves along",
    "frontier": "success and violations of guardrails beside penalties and a Lagrangian",
    "anytime": "success under time limits per decision",
    "disturbances": "detection of disturbances by prediction errors",
    "bench": "speed of planning, encoding, training and collection beside the machine's ceiling",
}


def overview() -> str:
    """The studies, one a line."""
    lines = [f"  {name:13} {description}" for name, description in STUDIES.items()]
    return "\n".join(
        [
            "usage: python -m worldmodel.studies NAME [flags]",
            "",
            *lines,
            "",
            "`python -m worldmodel.studies NAME --help` lists the flags of a study.",
        ]
    )


@run
def main(argv: list[str] | None = None) -> None:
    """Run a study: print its table, write its JSON file and its plot."""
    name, *flags = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(overview())
        return
    if name not in STUDIES:
        near = difflib.get_close_matches(name, STUDIES, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(STUDIES)}"
        raise UserError(f"no study is called {name!r}: {hint}")
    study = importlib.import_module(f"worldmodel.studies.{name}").STUDY
    description = f"{STUDIES[name][0].upper()}{STUDIES[name][1:]}."
    config = parse_config(study.config, flags, f"worldmodel.studies {name}", description)
    if config.out.suffix != ".json":
        raise UserError(f"out is {config.out}: it must be a .json file")
    writable_folder(config.out.parent)

    from worldmodel.measure.provenance import save_result

    result = study.run(config)
    print(study.table(result))
    save_result(config.out, result)
    print(f"wrote {config.out}")
    plot = study.draw(result)
    if plot is not None:
        path = config.out.with_suffix(".png")
        atomic_write_bytes(path, plot)
        print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
