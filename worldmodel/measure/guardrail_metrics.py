"""How well guardrails hold in episodes, measured on true states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.task import Task
from worldmodel.control.guardrails import Rule
from worldmodel.measure.outcomes import Outcomes
from worldmodel.measure.rollouts import RolloutLog
from worldmodel.measure.statistics import rate_interval

Array = NDArray[Any]


def violation_metrics(
    rules: Sequence[Rule], task: Task, paths: Sequence[Array], outcomes: Outcomes
) -> dict[str, Any]:
    """Violation rates, worst depths and success without a violation.

    Args:
        rules: guardrails that true states can be checked against.
        task: reads quantities from states.
        paths: states of each episode ``[steps + 1, Ds]``.
        outcomes: success of the same episodes.

    Returns:
        ``worst_depth`` has the largest violation of each learned rule, in the rule's unit; below 0
        its absolute value is the smallest distance from a violation.
    """
    depths = np.stack([rule.violation(task, np.stack(paths)) for rule in rules])  # [R, n, steps]
    worst = depths.max(0)  # [n, steps]
    violated, safe = worst > 0, worst.max(1) <= 0
    return {
        "violation_per_step": rate_interval(violated.ravel()),
        "violation_per_episode": rate_interval(~safe),
        "worst_depth": {
            rule.text: float(depth.max())
            for rule, depth in zip(rules, depths, strict=True)
            if rule.tier == 2
        },
        "safe_success": rate_interval(outcomes.success_any & safe),
        "safe_success_final": rate_interval(outcomes.success_final & safe),
    }


def prediction_gaps(
    rule: Rule,
    index: int,
    task: Task,
    paths: Sequence[Array],
    log: RolloutLog,
    frameskip: int,
) -> Array:
    """The conformal score of each episode ``[n]``: the largest gap between true and predicted
    violation, over the executed steps of each plan. A step without a plan counts as predicted at
    the margin.

    Args:
        rule: a learned guardrail.
        index: its place among the learned guardrails.
        task: reads quantities from states.
        paths: states of each episode ``[steps + 1, Ds]``.
        log: predicted violations of the same episodes.
        frameskip: environment steps in a model step.
    """
    scores = []
    true = rule.violation(task, np.stack(paths))  # [n, steps]
    for depth, planned_at, violations, stopped in zip(
        true, log.planned_at, log.violations, log.stopped, strict=True
    ):
        worst = -math.inf
        ends = [*planned_at[1:].tolist(), len(depth)]
        for start, end, violation in zip(planned_at.tolist(), ends, violations, strict=True):
            for k, at in enumerate(range(start, end, frameskip)):
                real = float(depth[at : min(at + frameskip, end)].max())
                predicted = 0.0 if stopped[start] else float(violation[k, index])
                worst = max(worst, real - (predicted - (rule.margin or 0.0)))
        scores.append(worst)
    return np.array(scores)


def margin_coverage(
    rules: Sequence[Rule],
    task: Task,
    paths: Sequence[Array],
    log: RolloutLog,
    frameskip: int,
) -> list[dict[str, Any]]:
    """The share of episodes whose prediction gap the margin covers, for each rule with a margin."""
    learned = [rule for rule in rules if rule.tier == 2]  # in the order of `log.violations`
    return [
        {
            "guardrail": rule.text,
            "margin": rule.margin,
            **rate_interval(
                prediction_gaps(rule, index, task, paths, log, frameskip) <= rule.margin
            ),
        }
        for index, rule in enumerate(learned)
        if rule.margin and rule.decided_by_states
    ]
