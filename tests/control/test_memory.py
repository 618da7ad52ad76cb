"""The past of an episode: what the model's context is taken from."""

from __future__ import annotations

import pytest
import torch

from worldmodel.control.memory import Memory


@pytest.mark.parametrize("every", [1, 2])
def test_the_context_is_whole_model_steps_apart(every: int) -> None:
    context, frameskip, past = 3, 2, 4
    before = torch.full((1, 1), -1.0)
    memory = Memory(context, frameskip, every, past, before)
    for step in range(9):
        if step % every == 0:
            memory.add_frame(torch.full((1, 1, 1), float(step)), torch.zeros(1, 1))
            seen = memory.context()
            expected = [max(0, step - ago) for ago in (4, 2, 0)]
            assert seen.z.flatten().tolist() == expected
            actions = [float(max(-1, at)) for at in range(step - 4, step)]
            assert seen.actions.flatten().tolist() == actions
        memory.add_action(torch.full((1, 1), float(step)))
        assert memory.last_action.item() == step and memory.steps == step + 1
