"""The hold action: declared as a fixed action, as "repeat", or as a function."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from worldmodel.control.action_layout import ActionLayout
from worldmodel.control.hold import Hold
from worldmodel.errors import UserError

LAYOUT = ActionLayout(3, 4, 2, 4, torch.tensor([-1.0, 0.2]), torch.tensor([1.0, 0.8]))
OBS = [{"proprio": np.array([0.5, 0.3])}, {"proprio": np.array([-0.5, 2.0])}]


def test_a_fixed_action_is_clipped_to_the_bounds() -> None:
    hold = Hold([None, [0.0, 0.0]], LAYOUT)
    assert hold.fixed is not None and hold.fixed.tolist() == pytest.approx([0.0, 0.2])
    actions = hold.actions(OBS, None)
    assert actions is not None and actions.shape == (2, 2)


def test_repeat_needs_an_action_before() -> None:
    hold = Hold(["repeat"], LAYOUT)
    last = torch.tensor([[0.1, 0.4], [0.2, 0.5]])
    assert hold.fixed is None and hold.actions(OBS, last) is last
    assert hold.actions(OBS, None) is None


def test_a_function_sees_the_observation_of_its_episode() -> None:
    hold = Hold([lambda obs: obs["proprio"]], LAYOUT)
    actions = hold.actions(OBS, None)
    assert actions is not None
    np.testing.assert_allclose(actions, [[0.5, 0.3], [-0.5, 0.8]], rtol=1e-6)


def test_the_checkpoint_is_asked_where_the_task_has_none() -> None:
    actions = Hold([lambda obs: None, [0.5, 0.5]], LAYOUT).actions(OBS, None)
    assert actions is not None and (actions == 0.5).all()
    assert Hold([None, None], LAYOUT).actions(OBS, None) is None
    assert Hold([lambda obs: None], LAYOUT).actions(OBS, None) is None


@pytest.mark.parametrize("declared", ["stay", [0.0], [0.0, float("nan")], [[0.0, 0.0]]])
def test_what_is_no_action_is_refused(declared: Any) -> None:
    with pytest.raises(UserError, match="hold is"):
        Hold([declared], LAYOUT)


def test_plans_end_with_the_hold_action_or_their_last_one() -> None:
    plan = torch.arange(12.0).view(1, 3, 4) / 12
    rest = LAYOUT.remainder(plan, 4, torch.tensor([[0.7, 0.6]]))
    torch.testing.assert_close(rest[:, :2], plan[:, 1:])
    torch.testing.assert_close(rest[:, 2], torch.tensor([[0.7, 0.6, 0.7, 0.6]]))
    torch.testing.assert_close(LAYOUT.remainder(plan, 4, None)[:, 2], plan[:, 2, 2:].repeat(1, 2))
