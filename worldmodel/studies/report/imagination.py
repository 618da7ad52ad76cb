"""Section: how similar the decoder's pictures are to recorded frames."""

from __future__ import annotations

from typing import Any

from worldmodel.studies.report.blocks import Missing, ReportBlock, Table


def imagination_section(trained: dict[str, Any] | None, command: str) -> list[ReportBlock]:
    """Similarity by depth, as the training of the decoder measured it; `command` trains one."""
    if trained is None:
        return [Missing("This checkpoint has no decoder for pictures of latents.", [command])]
    rows = []
    for row in trained["by_depth"]:
        similarity = [f"{row[k]:.3f}" for k in ("ssim", "ssim_worst_tenth", "average_ssim")]
        decibels = [f"{row[k]:.1f}" for k in ("psnr", "average_psnr")]
        rows.append(["encoded" if row["depth"] == 0 else row["depth"], *similarity, *decibels])
    head = (
        "model steps ahead",
        "SSIM",
        "worst tenth, at most",
        "SSIM of the average frame",
        "PSNR, dB",
        "PSNR of the average frame, dB",
    )
    caption = f"Pictures of latents and recorded frames, {trained['clips']} held-out clips"
    return [Table(caption, head, rows)]
