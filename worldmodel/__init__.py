"""A latent world model, and an agent that plans in it towards goal images.

    import worldmodel
    agent = worldmodel.load("pusht")
    agent.reset(goal_pixels)
    action = agent.act(obs)

Importing this package does not import torch; the modules that need it do.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldmodel.errors import UserError

if TYPE_CHECKING:
    from planners import Planner
    from worldmodel.agent import Agent

__all__ = ["UserError", "load"]


def load(
    name_or_path: str | Path,
    planner: str | Planner = "cem",
    device: str = "auto",
    hold: Any = None,
    **settings: Any,
) -> Agent:
    """An agent from a checkpoint.

    Args:
        name_or_path: a bundled name (``"pusht"``), a folder, or a name on the Hugging Face Hub
            (``"hf:user/name"``), which is downloaded.
        planner: ``"cem"``, ``"mppi"``, ``"cmaes"``, ``"gradient"``, or a planner with its options.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        hold: the action that holds the robot still: an action, ``"repeat"``, or a function of the
            observation; default: the one stored with the checkpoint.
        settings: fields of `worldmodel.control.config.AgentConfig`, such as ``samples=100``.

    Raises:
        UserError: no such checkpoint or a damaged one; no such device; an unknown planner or
            setting.
    """
    from worldmodel.agent import Agent
    from worldmodel.cli.device import pick_device
    from worldmodel.control.config import make_config, make_planner
    from worldmodel.models.checkpoint import load_checkpoint

    chosen, config, target = make_planner(planner), make_config(**settings), pick_device(device)
    model, encoder, info = load_checkpoint(name_or_path)
    return Agent(model.to(target), encoder.to(target), info, chosen, config, hold)
