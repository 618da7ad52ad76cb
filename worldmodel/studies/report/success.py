"""Section: success, the task's own metrics, guardrails, alarms and time of evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from worldmodel.measure.evaluation_table import search_label
from worldmodel.measure.statistics import in_percent
from worldmodel.studies.report.blocks import Heading, Missing, ReportBlock, Table
from worldmodel.studies.report.sources import written_by

Result = dict[str, Any]
Rows = list[list[object]]
GUARDRAIL_COLUMNS = [
    "episodes with a violation",
    "steps with a violation",
    "safe success, at any time",
    "safe success, at the end",
    "worst depth",
    "steps without a plan",
    "interventions",
    "margin: episodes it covered",
]


class StoredEvaluation(NamedTuple):
    """A result of ``evaluate``: its name, the file or field it comes from, and its content."""

    name: str
    where: str
    result: Result


class Contender(NamedTuple):
    """The planner, the floor or the ceiling: prefix of its metrics, label, episodes, success."""

    prefix: str
    label: str
    episodes: int
    success_any: dict[str, float]
    success_final: dict[str, float]


def success_section(
    evaluations: Sequence[StoredEvaluation], own_names: Sequence[str], command: str
) -> list[ReportBlock]:
    """Tables of evaluations.

    Args:
        evaluations: the results.
        own_names: names that the results give to this checkpoint.
        command: makes an evaluation.
    """
    if not evaluations:
        return [Missing("No evaluation is stored or given.", [command])]
    rates: Rows = []
    metrics: Rows = []
    rails: Rows = []
    alarms: Rows = []
    times: Rows = []
    for evaluation in evaluations:
        with written_by("evaluate --out", evaluation.where):
            rates += success_rows(evaluation, own_names)
            metrics += metric_rows(evaluation)
            rails += guardrail_rows(evaluation)
            alarms += alarm_rows(evaluation)
            times.append(time_row(evaluation))
    head = ("", "episodes", "at any time", "at the end")
    blocks: list[ReportBlock] = [Table("Success, with Wilson 95 % intervals", head, rates)]
    if metrics:
        caption = "The environment's own metrics, with 95 % intervals"
        blocks.append(Table(caption, ("", "episodes", "value"), metrics))
    blocks.append(Heading("Guardrails"))
    if rails:
        caption = "Guardrails, by true states; a worst depth below 0 is the distance kept"
        blocks.append(Table(caption, ["", *GUARDRAIL_COLUMNS], rails))
    else:
        blocks.append(
            Missing("No evaluation here had guardrails.", [f"{command} --guardrail RULE"])
        )
    if alarms:
        head = ("", "p-value below", "of steps", "of episodes")
        blocks.append(Table("Alarms during evaluations", head, alarms))
    blocks.append(Heading("Time"))
    caption = "One plan of one episode, milliseconds; rank correlation of model and simulator"
    columns = ("", "p50", "p99", "encoding", "model steps", "threads", "rank correlation")
    blocks.append(Table(caption, columns, times))
    return blocks


def percent(interval: dict[str, float]) -> str:
    """A rate in per cent with its interval; a line may break before the interval only."""
    return in_percent(interval).replace(" ", "\xa0").replace("\xa0(", " (")


def interval_text(interval: dict[str, float]) -> str:
    """A mean, or a rate in per cent, with its interval."""
    if "rate" in interval:
        return percent(interval)
    return "{mean:.2f} ({low:.2f}\xa0to\xa0{high:.2f})".format(**interval)


def agent_settings(result: Result) -> Result:
    """The settings of the agent in a result."""
    settings: Result = result["settings"]["agent"]
    return settings


def contenders(result: Result) -> list[Contender]:
    """The planner, the floor and the ceiling, as far as the evaluation had them."""
    label = f"{result['planner']} {search_label(agent_settings(result))}"
    rates = result["success_any"], result["success_final"]
    found = [Contender("", label, result["episodes"], *rates)]
    if floor := result["random"]:
        found.append(
            Contender("random_", "random actions", floor["episodes"], floor, floor["final"])
        )
    if top := result["ceiling"]:
        label = f"{top['planner']} {top['samples']} x {top['iterations']}, true simulator"
        label += ", the agent's cost" if top["cost"] == "latents" else ""
        found.append(Contender("ceiling_", label, top["episodes"], top, top["final"]))
    return found


def success_rows(evaluation: StoredEvaluation, own_names: Sequence[str]) -> Rows:
    """Success rates of planner, floor and ceiling."""
    rows: Rows = [[f"{evaluation.name}\n{protocol(evaluation.result, own_names)}"]]
    for who in contenders(evaluation.result):
        rates = (who.success_any, who.success_final)
        rows.append([who.label, who.episodes, *map(percent, rates)])
    return rows


def metric_rows(evaluation: StoredEvaluation) -> Rows:
    """The task's own metrics of planner, floor and ceiling."""
    metrics = evaluation.result["env_metrics"]
    names = [name for name in metrics if not name.startswith(("random_", "ceiling_"))]
    rows: Rows = []
    for name in names:
        for who in contenders(evaluation.result):
            if who.prefix + name in metrics:
                label = f"{name.replace('_', ' ')}: {who.label}"
                value = interval_text(metrics[who.prefix + name])
                rows.append([label, who.episodes, value])
    return [[evaluation.name], *rows] if rows else []


def guardrail_rows(evaluation: StoredEvaluation) -> Rows:
    """Violations of planner and ceiling."""
    result, settings = evaluation.result, evaluation.result["settings"]
    labels = {who.prefix: who.label for who in contenders(result)}
    rows: Rows = []
    if "guardrails" in result:
        rules = "; ".join([*agent_settings(result)["guardrails"], *settings.get("judged", [])])
        without = ", planned without them" if settings["unguarded"] else ""
        rows.append([f"{evaluation.name}\n{rules}{without}"])
        rows.append([labels[""], *guardrail_cells(result["guardrails"])])
    if "guardrails" in (result["ceiling"] or {}):
        rows.append([labels["ceiling_"], *guardrail_cells(result["ceiling"]["guardrails"])])
    return rows


def guardrail_cells(rails: Result) -> list[str]:
    """The cells of GUARDRAIL_COLUMNS."""
    depths, several = rails["worst_depth"], len(rails["worst_depth"]) > 1
    rates = ("violation_per_episode", "violation_per_step", "safe_success", "safe_success_final")
    agent_rates = ("stop_rate", "intervention_rate")
    return [
        *(percent(rails[key]) for key in rates),
        "; ".join(f"{d:+.3g}{f' of {rule}' if several else ''}" for rule, d in depths.items()),
        *(percent(rails[key]) if key in rails else "" for key in agent_rates),
        "; ".join(f"{each['margin']:.4f}: {percent(each)}" for each in rails.get("covered", [])),
    ]


def alarm_rows(evaluation: StoredEvaluation) -> Rows:
    """How often the agent was surprised."""
    result = evaluation.result
    if "alarms" not in result:
        return []
    rates = [result["alarms"][key] for key in ("per_step", "per_episode")]
    alarm = f"{agent_settings(result)['alarm']:g}"
    return [[evaluation.name, alarm, *map(percent, rates)]]


def time_row(evaluation: StoredEvaluation) -> list[object]:
    """How long plans take, and how well the model ranks them."""
    result = evaluation.result
    ms = [result["plan_ms"]["p50"], result["plan_ms"]["p99"], result["encode_ms"]["p50"]]
    ranks = (result["ceiling"] or {}).get("rank_correlation")
    return [
        evaluation.name,
        *(f"{each:.1f}" for each in ms),
        result["model_calls_per_plan"],
        result["settings"]["threads"],
        interval_text(ranks) if ranks else "",
    ]


def protocol(result: Result, own_names: Sequence[str]) -> str:
    """The settings of an evaluation in words."""
    settings, first, seeds = result["settings"], result["seed"], result["seeds"]
    offset, rules = result["goal_offset"], agent_settings(result).get("guardrails")
    parts = [f"{result['budget_steps']} steps"]
    parts.append(f"goals {offset} steps ahead" if offset else "random goals")
    parts += [f"{key} {value}" for key, value in settings["env_kwargs"].items()]
    if result["variation"]:
        parts.append(f"changed {' and '.join(result['variation'])}")
    if rules:
        parts.append("guardrails for the tasks only" if settings["unguarded"] else "guardrails")
    if settings.get("across"):
        parts.append("tasks whose straight line violates them")
    if result["checkpoint"] not in own_names:
        parts.append(f"checkpoint {result['checkpoint']}")
    if seeds == 1:
        parts.append(f"seed {first}")
    else:
        rates = ", ".join(f"{100 * rate:.1f}" for rate in result["per_seed"]["success_any"])
        parts.append(f"seeds {first} to {first + seeds - 1}, each at any time: {rates} %")
    return "; ".join(parts)
