"""The comparisons of `bench_peers.py`: libraries, models and sizes of plans."""

from __future__ import annotations

from dataclasses import dataclass

HORIZON = 5  # model steps, of 5 environment steps each, everywhere
CHECKPOINTS = ("pusht", "pusht-fast", "maze")
PRECISIONS = ("fp32", "bf16")

# What pip installs, besides the version of torch that this project uses. The name comes first.
REQUIREMENTS = {
    # Its package does not ask for the last two, but cannot be imported without them.
    "stable-worldmodel": (
        "stable-worldmodel==0.1.1",
        "opencv-python-headless==5.0.0.93",
        "imageio==2.38.1",
    ),
    "torch-world": ("torch-world==0.2.0",),
    "pytorch-mppi": ("pytorch-mppi==0.9.1",),
}


@dataclass(frozen=True)
class Peer:
    """One comparison.

    model: its name in the table.
    package: the library.
    case: its name in `peers.py`.
    budgets: samples and iterations of a plan.
    slow: whether a whole plan takes too long to be timed.
    ours: our checkpoint -> the worker that times it, and its name in `peers.py`.
    alone: name in `peers.py` of the model without a planner, where both use the same model.
    """

    model: str
    package: str
    case: str
    budgets: tuple[tuple[int, int], ...]
    slow: bool
    ours: dict[str, tuple[str, str]]
    alone: str = ""


OURS = {name: ("ours", name) for name in CHECKPOINTS}
# Published are 300 samples x 30 iterations, 30 elites, horizon 5: conf/planner/mpc_cem.yaml of
# DINO-WM; for both models, CEMSolver's defaults and scripts/plan/config/ of stable-worldmodel. The
# CEM of torch-world has 10 iterations by default. pytorch-mppi refines a plan once per command.
CEM = ((300, 10), (300, 30))
PEERS = (
    Peer("DINO-WM (PreJEPA)", "stable-worldmodel", "PreJEPA", CEM, True, OURS),
    Peer("LeWM", "stable-worldmodel", "LeWM", CEM, False, OURS),
    Peer("DINO-WM (DINOWM)", "torch-world", "DINOWM", CEM, True, OURS),
    Peer("LeWM", "torch-world", "LeWM", CEM, False, OURS),
    *(
        # In the library's process, so that both call the very same model.
        Peer(
            f"MPPI, model of {name}",
            "pytorch-mppi",
            f"theirs {name}",
            ((300, 1),),
            False,
            {name: ("pytorch-mppi", f"ours {name}")},
            f"alone {name}",
        )
        for name in CHECKPOINTS
    ),
)
