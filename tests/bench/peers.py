"""The worker processes of `bench_peers.py`: each plans with one library, on request.

    python tests/bench/peers.py torch-world

Runs in that library's own environment (``ours`` in this one). It reads one request per line from
standard input, ``{"case": "DINOWM", "precision": "bf16", "samples": 4, "iterations": 1, "horizon":
5}``, and answers with one line of JSON. Weights and latents of the peers are random, since time
depends on neither. Encoding is not included: it happens once per plan.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

FRAMESKIP, ACTION, PROPRIO = 5, 2, 4  # of Push-T in DINO-WM, LeWM and both libraries' configs
BF16 = torch.bfloat16


@dataclass(frozen=True)
class Case:
    """A model and a planner.

    modules: the parts of the model that run during a plan.
    tokens: number and width of a frame's tokens.
    prepare: (samples, iterations, horizon) -> a function that plans once.
    """

    modules: tuple[nn.Module, ...]
    tokens: tuple[int, int]
    prepare: Callable[[int, int, int], Callable[[], object]]


def elites(samples: int) -> int:
    """30 of 300, as all three publish; at least 2, so that there is a standard deviation."""
    return max(2, samples // 10)


# ------------------------------------------------------------------------------------------- ours
@functools.cache
def agent(checkpoint: str, horizon: int, precision: str) -> Any:
    """An agent at the start of an episode, with a goal."""
    from worldmodel.control.config import AgentConfig, make_planner
    from worldmodel.models.checkpoint import load_checkpoint
    from worldmodel.studies.bench_parts import placed

    settings = AgentConfig(horizon=horizon, bfloat16=precision == "bf16")
    kind, _, size = checkpoint.partition(" ")
    loaded = untrained(*map(int, size.split("x"))) if size else load_checkpoint(kind)
    return placed(loaded, make_planner("cem"), settings)


def untrained(tokens: int, width: int) -> Any:
    """A model with random weights that has as many latent tokens of the same width as a library's,
    and its depth and context; the encoder and the robot are those of a bundled checkpoint."""
    from dataclasses import replace

    from worldmodel.models.checkpoint import load_checkpoint
    from worldmodel.models.config import ModelConfig
    from worldmodel.models.world_model import WorldModel

    _, encoder, info = load_checkpoint("pusht")
    heads = next(heads for heads in (16, 8, 4, 2, 1) if width % heads == 0)
    config = ModelConfig(
        tokens, width, "transformer", width=width, depth=6, heads=heads, context=3, frameskip=5
    )
    model = WorldModel(config, info.spec).eval().requires_grad_(False)
    return model, encoder, replace(info, model=config, probe={}, familiar={}, surprise={})


def ours(checkpoint: str, precision: str, planner: str = "cem") -> Case:
    """Our planner, with a bundled checkpoint or, for "untrained 256x404", a model with random
    weights. The plan includes the hold action and the final verification."""
    import planners

    model = agent(checkpoint, 5, precision).model

    def prepare(samples: int, iterations: int, horizon: int) -> Callable[[], object]:
        problem = agent(checkpoint, horizon, precision).problem()
        budget = planners.Budget(samples, iterations)
        generator = torch.Generator().manual_seed(0)
        return lambda: planners.make(planner).plan(problem, budget, generator)

    return Case((model.predictor,), (model.config.tokens, model.config.dim), prepare)


# ----------------------------------------------------------------------------- stable-worldmodel
class Encoded(nn.Module):
    """Stands in for an encoder: returns fixed tokens, after a class token."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(1, 1 + tokens, width))

    def forward(self, pixels: Tensor, interpolate_pos_encoding: bool = True) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.tokens.expand(len(pixels), -1, -1))


def stable_worldmodel(model: str, precision: str) -> Case:
    """PreJEPA (the library's name for DINO-WM) or LeWM, with the library's CEMSolver."""
    import gymnasium as gym
    from stable_worldmodel.policy import PlanConfig
    from stable_worldmodel.solver import CEMSolver

    if model == "PreJEPA":
        from stable_worldmodel.wm.prejepa import PreJEPA
        from stable_worldmodel.wm.prejepa.module import (
            CausalPredictor,
            Embedder,
        )

        # scripts/train/config/prejepa.yaml of the library's repository: DINOv2-S in patches of 14
        # of an image of 224, 3 frames, proprio and action 10 numbers each beside every token.
        tokens, width, beside = (224 // 14) ** 2, 384, 10
        made = PreJEPA(
            encoder=Encoded(tokens, width),
            predictor=CausalPredictor(
                num_patches=tokens,
                num_frames=3,
                dim=width + 2 * beside,
                depth=6,
                heads=16,
                mlp_dim=2048,
                dim_head=64,
                dropout=0.1,
            ),
            extra_encoders=nn.ModuleDict(
                {
                    "proprio": Embedder(in_chans=PROPRIO, emb_dim=beside),
                    "action": Embedder(in_chans=FRAMESKIP * ACTION, emb_dim=beside),
                }
            ),
            history_size=3,
        )
        modules: tuple[nn.Module, ...] = (made.predictor, made.extra_encoders)
        seen = (tokens, width + 2 * beside)
    else:
        from stable_worldmodel.wm.lewm import LeWM
        from stable_worldmodel.wm.lewm import module as parts

        # scripts/train/config/lewm.yaml of the library's repository.
        tokens, width = (224 // 14) ** 2, 192
        made = LeWM(
            encoder=Encoded(tokens, width),
            predictor=parts.Predictor(
                num_frames=3,
                input_dim=width,
                hidden_dim=width,
                output_dim=width,
                depth=6,
                heads=16,
                mlp_dim=2048,
                dim_head=64,
                dropout=0.1,
            ),
            action_encoder=parts.Embedder(input_dim=FRAMESKIP * ACTION, emb_dim=width),
            projector=parts.MLP(width, 2048, width, norm_fn=nn.BatchNorm1d),
            pred_proj=parts.MLP(width, 2048, width, norm_fn=nn.BatchNorm1d),
        )
        modules = (made.predictor, made.action_encoder, made.pred_proj)
        seen = (1, width)
    made = made.eval().requires_grad_(False)
    # Its scripts/plan/eval_wm.py casts the weights and plans under autocast. PreJEPA of 0.1.1
    # cannot be cast, because its encoder of proprio always gets float32: autocast only.
    if precision == "bf16" and model == "LeWM":
        made = made.to(BF16)
    image = torch.zeros(1, 1, 3, 224, 224)
    step = 0

    def prepare(samples: int, iterations: int, horizon: int) -> Callable[[], object]:
        nonlocal step
        step += 1  # it caches its encodings while episode and step stay the same
        # CEMSolver's own defaults are 300 samples, 30 steps, 30 elites and a variance of 1, as in
        # scripts/plan/config/solver/cem.yaml; plan_config of scripts/plan/config/pusht.yaml.
        solver = CEMSolver(made, num_samples=samples, n_steps=iterations, topk=elites(samples))
        config = PlanConfig(horizon=horizon, receding_horizon=horizon, action_block=FRAMESKIP)
        solver.configure(action_space=gym.spaces.Box(-1, 1, (1, ACTION)), n_envs=1, config=config)
        info = {
            "pixels": image,
            "goal": image,
            "proprio": torch.zeros(1, 1, PROPRIO),
            "goal_proprio": torch.zeros(1, 1, PROPRIO),
            "action": torch.zeros(1, 1, FRAMESKIP * ACTION),
            "id": torch.zeros(1, 1, dtype=torch.int64),
            "step_idx": torch.full((1, 1), step),
        }

        def plan() -> object:
            with torch.autocast("cpu", BF16, enabled=precision == "bf16"):
                return solver.solve(info)

        return plan

    return Case(modules, seen, prepare)


# ------------------------------------------------------------------------------------ torch-world
def torch_world(model: str, precision: str) -> Case:
    """DINOWM or LeWM with the library's CEM, with all defaults of its classes."""
    from torch_world.models import DINOWM, LeWM
    from torch_world.planning import CEM

    actions = FRAMESKIP * ACTION
    if model == "DINOWM":
        # The library leaves the number of tokens to its user: 14 x 14, as DINO-WM has it (DINOv2-S,
        # patches of 14 of an image of 196; conf/train.yaml and models/dino.py of its repository).
        tokens, width = 14**2, 384
        made = DINOWM(nn.Identity(), tokens, width, actions, PROPRIO)
        modules = (made.predictor, made.action_encoder)
        seen = (tokens, made.pos_embed.shape[-1])
        shape: tuple[int, ...] = (tokens, made.pos_embed.shape[-1] - made.action_emb_dim)
    else:
        made = LeWM(nn.Identity(), actions)
        modules = (made.predictor, made.action_encoder, made.pred_proj)
        seen = (1, made.pos_embed.shape[-1])
        shape = seen[1:]
    made = made.eval().requires_grad_(False)
    # Cast weights are faster here than autocast, or than both; its CEM samples in their type.
    dtype = BF16 if precision == "bf16" else torch.float32
    made = made.to(dtype)
    # One frame of context, as in its README's quick start, and as in the others.
    now, goal = torch.randn(1, 1, *shape, dtype=dtype), torch.randn(1, *shape, dtype=dtype)

    def prepare(samples: int, iterations: int, horizon: int) -> Callable[[], object]:
        # CEM's own defaults: 300 samples, 30 elites, 10 iterations.
        planner = CEM(horizon, actions, samples, elites(samples), iterations)
        return lambda: planner(made, now, goal)

    return Case(modules, seen, prepare)


# ----------------------------------------------------------------------------------- pytorch-mppi
def pytorch_mppi(case: str, precision: str) -> Case:
    """The sampler alone. ``theirs pusht`` is its MPPI with our predictor as dynamics and our cost
    as terminal cost, ``ours pusht`` our planner, ``alone pusht`` only rollouts and costs."""
    what, _, checkpoint = case.partition(" ")
    if what == "ours":
        return ours(checkpoint, precision, "mppi")
    model = agent(checkpoint, 5, precision).model
    seen = (model.config.tokens, model.config.dim)

    def prepare(samples: int, iterations: int, horizon: int) -> Callable[[], object]:
        robot = agent(checkpoint, horizon, precision)
        if what == "theirs":
            control = mppi_around(robot, samples)
            return lambda: [control() for _ in range(iterations)]
        problem = robot.problem()
        low, high = problem.low, problem.high
        actions = torch.lerp(low, high, torch.rand(1, samples, horizon, len(low)))

        def imagine() -> object:
            with torch.no_grad():
                return [problem.cost(problem.rollout(actions), actions) for _ in range(iterations)]

        return imagine

    return Case((model.predictor,), seen, prepare)


def mppi_around(robot: Any, samples: int) -> Callable[[], object]:
    """One iteration of pytorch-mppi's MPPI. Its state is a vector: here latents, proprio and
    actions of the predictor's context.

    Raises RuntimeError where its costs differ from those of our planners.
    """
    from pytorch_mppi import MPPI

    from planners import Trajectory

    problem = robot.problem()
    z, proprio, past = robot._context()  # [1, K, P, D], [1, K, Dp], [1, K-1, F*A]
    parts = [z, proprio, past]
    sizes = [part.numel() for part in parts]

    def packed(parts: list[Tensor]) -> Tensor:
        return torch.cat([part.flatten(1) for part in parts], 1)

    def unpacked(state: Tensor) -> list[Tensor]:
        split = state.split(sizes, -1)
        return [s.unflatten(-1, p.shape[1:]) for s, p in zip(split, parts, strict=True)]

    def dynamics(state: Tensor, action: Tensor) -> Tensor:
        z, proprio, past = unpacked(state)
        taken = torch.cat([past, robot.primitive(action).unsqueeze(1)], 1)
        with robot._precision():
            next_z, next_proprio = robot.model.predict(z, proprio, taken)
        z = torch.cat([z[:, 1:], next_z.unsqueeze(1)], 1)
        proprio = torch.cat([proprio[:, 1:], next_proprio.unsqueeze(1)], 1)
        return packed([z, proprio, taken[:, 1:]])

    def at_the_end(states: Tensor, actions: Tensor) -> Tensor:
        z, proprio, _ = unpacked(states)  # [1, S, T, K, ...]
        return problem.cost(Trajectory(z[..., -1, :, :], proprio[..., -1, :]), actions)

    control = MPPI(
        dynamics,
        lambda state, action: torch.zeros(len(state)),
        sum(sizes),
        torch.diag((0.5 * problem.half_range).square()),  # sigma of our planners
        num_samples=samples,
        horizon=problem.horizon,
        terminal_state_cost=at_the_end,
        u_min=problem.low,
        u_max=problem.high,
        U_init=torch.zeros(problem.horizon, len(problem.low)),
    )
    start = packed(parts)[0]

    def command() -> object:
        with torch.no_grad():
            return control.command(start, shift_nominal_trajectory=False)

    command()
    with torch.no_grad():  # compare with our rollout and cost of the same actions
        expected = problem.cost(problem.rollout(control.actions), control.actions)
        found = at_the_end(control.states, control.actions)
    if not torch.allclose(found, expected, rtol=0.02, atol=1e-3):
        raise RuntimeError("our predictor predicts something else inside pytorch-mppi than outside")
    return command


# ------------------------------------------------------------------------------------ the process
LIBRARIES: dict[str, Callable[[str, str], Case]] = {
    "ours": ours,
    "stable-worldmodel": stable_worldmodel,
    "torch-world": torch_world,
    "pytorch-mppi": pytorch_mppi,
}


def flops(case: Case, horizon: int) -> float:
    """Operations in matrix products (a multiplication and an addition are two) that one more sample
    adds to an iteration. Work that is done once per plan does not count."""

    def attention(q: Any, k: Any, v: Any, *_: object, **__: object) -> int:
        return int(sdpa_flop_count(q, k, v))

    # PyTorch's counter does not know the CPU's attention kernel.
    known = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    totals = []
    for samples in (2, 3):
        plan = case.prepare(samples, 1, horizon)
        with FlopCounterMode(display=False, custom_mapping=known) as counter:
            plan()
        totals.append(counter.get_total_flops())
    return float(totals[1] - totals[0])


@functools.cache
def described(library: str, case: str, precision: str, horizon: int) -> dict[str, Any]:
    """A case and its size; cached."""
    made = LIBRARIES[library](case, precision)
    parameters = sum(p.numel() for module in made.modules for p in module.parameters())
    size = {"parameters": parameters, "tokens": made.tokens, "flops": flops(made, horizon)}
    return {"case": made, "size": size}


@functools.cache
def warmed(library: str, case: str, precision: str, samples: int, horizon: int) -> None:
    """One untimed iteration of that many samples, which allocates memory and loads kernels."""
    described(library, case, precision, horizon)["case"].prepare(samples, 1, horizon)()


def products(precision: str, size: int = 2048) -> float:
    """The ceiling: operations per second of a product of two square matrices, best of five."""
    a = torch.randn(size, size, dtype=BF16 if precision == "bf16" else torch.float32)
    spent = []
    for _ in range(6):
        begun = time.perf_counter()
        a @ a
        spent.append(time.perf_counter() - begun)
    return 2 * size**3 / min(spent[1:])


def answer(library: str, request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request: the ceiling, or one plan's milliseconds and its model's size."""
    if request["case"] == "products":
        return {"flops_per_s": products(request["precision"])}
    case, precision, horizon = request["case"], request["precision"], request["horizon"]
    found = described(library, case, precision, horizon)
    warmed(library, case, precision, request["samples"], horizon)
    plan = found["case"].prepare(request["samples"], request["iterations"], horizon)
    begun = time.perf_counter()
    plan()
    return {"ms": 1e3 * (time.perf_counter() - begun), **found["size"]}


def main() -> None:
    (library,) = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w")  # libraries also print: that goes to standard error
    os.dup2(2, 1)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    for line in sys.stdin:
        try:
            reply = {"torch": torch.__version__, **answer(library, json.loads(line))}
        except Exception as error:  # a library may raise anything: its row shows it
            reply = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        with contextlib.suppress(BrokenPipeError):  # the parent has ended
            print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
