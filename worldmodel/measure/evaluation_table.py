"""The result of an evaluation as Markdown tables."""

from __future__ import annotations

from typing import Any

from worldmodel.measure.statistics import in_percent


def search_label(settings: dict[str, Any]) -> str:
    """How much a planner searches: ``128 x 12``, or ``128, 95 ms`` with a time limit."""
    limit = settings.get("budget_ms")
    ends = f" x {settings['iterations']}" if limit is None else f", {limit:g} ms"
    return f"{settings['samples']}{ends}"


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""

    def row(name: str, episodes: int, *rates: dict[str, float]) -> str:
        return f"| {name} | {episodes} | {' | '.join(map(in_percent, rates))} |"

    settings = result["settings"]
    n, offset = result["episodes"], result["goal_offset"]
    rows = [
        f"{result['env']}, checkpoint {result['checkpoint']}: {result['budget_steps']} steps"
        + (f", goals {offset} steps ahead" if offset else ", random goals")
        + (f", seed {result['seed']}" if result["seeds"] == 1 else f", {_seeds(result)}")
        + (f", changed {' and '.join(result['variation'])}" if result["variation"] else ""),
        "",
        "| | episodes | success at any time | success at the end |",
        "|---|---|---|---|",
        row(
            f"{result['planner']} {search_label(settings)}",
            n,
            result["success_any"],
            result["success_final"],
        ),
    ]
    metrics = result["env_metrics"]
    if "block_success_any" in metrics:
        rows.append(
            row("block only", n, metrics["block_success_any"], metrics["block_success_final"])
        )
    if floor := result["random"]:
        rows.append(row("random actions", floor["episodes"], floor, floor["final"]))
    if top := result["ceiling"]:
        name = f"{top['planner']} {top['samples']} x {top['iterations']} on the true simulator"
        name += ", the model's cost" if top["cost"] == "latents" else ""
        rows.append(row(name, top["episodes"], top, top["final"]))
        alike = "{mean:.2f} ({low:.2f} to {high:.2f})".format(**top["rank_correlation"])
        rows += ["", f"Rank correlation of imagined and true costs of random plans: {alike}."]
    if "chamfer_final" in metrics:
        rows += ["", "| Chamfer distance, chip widths | start | end |", "|---|---|---|"]
        names = {"": result["planner"], "random_": "random actions", "ceiling_": "true simulator"}
        for prefix, name in names.items():
            if f"{prefix}chamfer_final" in metrics:
                cells = [
                    "{mean:.2f} ({low:.2f} to {high:.2f})".format(
                        **metrics[f"{prefix}chamfer_{at}"]
                    )
                    for at in ("start", "final")
                ]
                rows.append(f"| {name} | {' | '.join(cells)} |")
    for who, kept_by in ((result["planner"], result), ("true simulator", result["ceiling"] or {})):
        if rails := kept_by.get("guardrails"):
            how = ", planned without them" if settings["unguarded"] else ""
            depths = "; ".join(
                f"{name} {depth:+.4f}" for name, depth in rails["worst_depth"].items()
            )
            rows += [
                "",
                f"| guardrails, {who}{how} | |",
                "|---|---|",
                f"| episodes in breach | {in_percent(rails['violation_per_episode'])} |",
                f"| steps in breach | {in_percent(rails['violation_per_step'])} |",
                f"| success without a breach | {in_percent(rails['safe_success'])} |",
                f"| worst depth (below 0: kept) | {depths} |",
            ]
            if "stop_rate" in rails:
                rows += [
                    f"| steps without a plan | {in_percent(rails['stop_rate'])} |",
                    f"| steps that are not as planned | {in_percent(rails['intervention_rate'])} |",
                ]
            rows += [
                f"| episodes no deeper than imagined by more than {each['margin']:.4f} "
                f"| {in_percent(each)} |"
                for each in rails.get("covered", [])
            ]
    if alarms := result.get("alarms"):
        rows += [
            "",
            f"Surprised (p < {settings['alarm']:g}) in {in_percent(alarms['per_step'])} of steps, "
            f"{in_percent(alarms['per_episode'])} of episodes.",
        ]
    rows += [
        "",
        f"One plan: {result['plan_ms']['p50']:.0f} ms (p50), {result['plan_ms']['p99']:.0f} ms "
        f"(p99), {result['model_calls_per_plan']} model steps, horizon {settings['horizon']}, "
        f"{settings['threads']} threads.",
    ]
    if made := result.get("decisions"):
        ms, calls = made["ms"], made["model_calls"]
        rows.append(
            f"All {made['count']} decisions, from what was seen to what was done: {ms['p50']:.1f} "
            f"ms (p50), {ms['p99']:.1f} ms (p99), {ms['max']:.1f} ms at most; {calls['p50']:.0f} "
            f"model steps (p50), {calls['max']:.0f} at most."
        )
    return "\n".join(rows)


def _seeds(result: dict[str, Any]) -> str:
    """The seeds and the rate of success at any time with each."""
    first = result["seed"]
    each = (
        f"{seed}: {100 * rate:.1f} %"
        for seed, rate in enumerate(result["per_seed"]["success_any"], first)
    )
    return f"{result['seeds']} seeds ({', '.join(each)})"
