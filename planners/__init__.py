"""Planners: how to choose actions.

Pure functions of (rollout, cost, guardrails, bounds), independent of networks and environments.
`make("cem").plan(problem, budget, generator)` returns a verified `Plan`.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any

from .cem import Cem
from .choices import one_hot
from .cmaes import CmaEs
from .gradient import Gradient
from .mppi import Mppi
from .plan import Budget, Plan, Planner
from .problem import ActionLimits, Guardrail, Problem, Trajectory, project
from .search import Candidates, Evaluation, evaluate_candidates, merge, rank, score, verify

PLANNERS: dict[str, type[Cem] | type[Mppi] | type[CmaEs] | type[Gradient]] = {
    planner.name: planner for planner in (Cem, Mppi, CmaEs, Gradient)
}

__all__ = [
    "PLANNERS",
    "ActionLimits",
    "Budget",
    "Candidates",
    "Cem",
    "CmaEs",
    "Evaluation",
    "Gradient",
    "Guardrail",
    "Mppi",
    "Plan",
    "Planner",
    "Problem",
    "Trajectory",
    "evaluate_candidates",
    "make",
    "merge",
    "one_hot",
    "project",
    "rank",
    "score",
    "verify",
]


def make(name: str, **options: Any) -> Planner:
    """The planner of that name, with options as documented in its class.

    Raises ValueError for an unknown name or option, naming the nearest, and for bad values.
    """
    if name not in PLANNERS:
        raise ValueError(_unknown("planner", name, PLANNERS))
    known = [field.name for field in dataclasses.fields(PLANNERS[name])]
    for option in options:
        if option not in known:
            raise ValueError(_unknown(f"option of planner {name!r}", option, known))
    return PLANNERS[name](**options)


def _unknown(kind: str, word: str, known: Iterable[str]) -> str:
    known = list(known)
    nearest = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"unknown {kind}: {word!r}; {hint}known are {', '.join(known)}"
