"""The result of an evaluation as Markdown tables."""

from __future__ import annotations

from typing import Any

from worldmodel.measure.statistics import in_percent, with_interval

Result = dict[str, Any]
Rows = list[str]


def search_label(settings: Result) -> str:
    """How much a planner searches: ``128 x 12``, or ``128, 95 ms`` with a time limit.

    Args:
        settings: of the agent.
    """
    limit = settings.get("budget_ms")
    ends = f" x {settings['iterations']}" if limit is None else f", {limit:g} ms"
    return f"{settings['samples']}{ends}"


def default_label(result: Result) -> str:
    """The environment and the settings, such as ``PushT-v0, 25 steps ahead, cem 128 x 12``."""
    settings = result["settings"]
    parts = [result["env"].rpartition("/")[2]]
    parts += [str(value) for value in settings["env_kwargs"].values()]
    if result["goal_offset"]:
        parts.append(f"{result['goal_offset']} steps ahead")
    parts.append(f"{result['planner']} {search_label(settings['agent'])}")
    if result["variation"]:
        parts.append("changed " + " and ".join(result["variation"]))
    if settings["agent"]["guardrails"]:
        parts.append("unguarded" if settings["unguarded"] else "guarded")
    return ", ".join(parts)


def evaluation_table(result: Result) -> str:
    """All that an evaluation found, for people to read."""
    rows = [_heading(result), "", *_success_rows(result), *_metric_rows(result)]
    rows += _guardrail_rows(result["planner"], result, result["settings"]["unguarded"])
    if ceiling := result["ceiling"]:
        rows += _guardrail_rows("true simulator", ceiling, False)
    if alarms := result.get("alarms"):
        rows += [
            "",
            f"Surprised (p < {result['settings']['agent']['alarm']:g}) in "
            f"{in_percent(alarms['per_step'])} of steps, {in_percent(alarms['per_episode'])} of "
            "episodes.",
        ]
    return "\n".join([*rows, *_time_rows(result)])


def _heading(result: Result) -> str:
    offset, seeds = result["goal_offset"], result["seeds"]
    parts = [f"{result['env']}, checkpoint {result['checkpoint']}: {result['budget_steps']} steps"]
    parts.append(f"goals {offset} steps ahead" if offset else "random goals")
    if seeds == 1:
        parts.append(f"seed {result['seed']}")
    else:
        rates = enumerate(result["per_seed"]["success_any"], result["seed"])
        each = ", ".join(f"{seed}: {100 * rate:.1f} %" for seed, rate in rates)
        parts.append(f"{seeds} seeds ({each})")
    if result["variation"]:
        parts.append(f"changed {' and '.join(result['variation'])}")
    return ", ".join(parts)


def _success_rows(result: Result) -> Rows:
    """Success of the agent, the floor and the ceiling."""

    def row(name: str, episodes: int, *rates: dict[str, float]) -> str:
        return f"| {name} | {episodes} | {' | '.join(map(in_percent, rates))} |"

    name = f"{result['planner']} {search_label(result['settings']['agent'])}"
    rows = ["| | episodes | success at any time | success at the end |", "|---|---|---|---|"]
    rows.append(row(name, result["episodes"], result["success_any"], result["success_final"]))
    if floor := result["random"]:
        rows.append(row("random actions", floor["episodes"], floor, floor["final"]))
    if top := result["ceiling"]:
        name = f"{top['planner']} {top['samples']} x {top['iterations']} on the true simulator"
        name += ", the agent's cost" if top["cost"] == "latents" else ""
        rows.append(row(name, top["episodes"], top, top["final"]))
        ranks = with_interval(top["rank_correlation"])
        rows += ["", f"Rank correlation of predicted and true costs of random plans: {ranks}."]
    return rows


def _metric_rows(result: Result) -> Rows:
    """The task's own metrics: of the agent, the floor and the ceiling."""
    metrics = result["env_metrics"]
    whose = {"": result["planner"], "random_": "random actions", "ceiling_": "true simulator"}
    own = [name for name in metrics if not name.startswith(("random_", "ceiling_"))]
    if not own:
        return []
    shown = [prefix for prefix in whose if prefix + own[0] in metrics]
    rows = ["", f"| | {' | '.join(whose[prefix] for prefix in shown)} |"]
    rows.append("|---" * (1 + len(shown)) + "|")
    for name in own:
        cells = [_interval(metrics[prefix + name]) for prefix in shown]
        rows.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return rows


def _interval(interval: dict[str, float]) -> str:
    """A rate in percent, or a mean."""
    return in_percent(interval) if "rate" in interval else with_interval(interval)


def _guardrail_rows(name: str, result: Result, unguarded: bool) -> Rows:
    """How well the guardrails hold, where there are any."""
    rails = result.get("guardrails")
    if not rails:
        return []
    depths = "; ".join(f"{rule} {depth:+.4f}" for rule, depth in rails["worst_depth"].items())
    rows = [
        "",
        f"| guardrails, {name}{', planned without them' if unguarded else ''} | |",
        "|---|---|",
        f"| episodes with a violation | {in_percent(rails['violation_per_episode'])} |",
        f"| steps with a violation | {in_percent(rails['violation_per_step'])} |",
        f"| success without a violation | {in_percent(rails['safe_success'])} |",
        f"| worst violation (below 0: none) | {depths} |",
    ]
    if "stop_rate" in rails:
        rows += [
            f"| steps without a plan | {in_percent(rails['stop_rate'])} |",
            f"| steps with an intervention | {in_percent(rails['intervention_rate'])} |",
        ]
    return rows + [
        f"| episodes with a prediction gap of at most {each['margin']:.4f} | {in_percent(each)} |"
        for each in rails.get("covered", [])
    ]


def _time_rows(result: Result) -> Rows:
    """How long plans take."""
    settings, plan_ms = result["settings"], result["plan_ms"]
    rows = [
        "",
        f"One plan: {plan_ms['p50']:.0f} ms (p50), {plan_ms['p99']:.0f} ms (p99), "
        f"{result['model_calls_per_plan']} model steps, horizon {settings['agent']['horizon']}, "
        f"{settings['threads']} threads, {settings['device']}.",
    ]
    if made := result.get("decisions"):
        ms, calls = made["ms"], made["model_calls"]
        rows.append(
            f"All {made['count']} decisions, from observation to action: {ms['p50']:.1f} ms (p50), "
            f"{ms['p99']:.1f} ms (p99), {ms['max']:.1f} ms at most; {calls['p50']:.0f} model steps "
            f"(p50), {calls['max']:.0f} at most."
        )
    return rows
