"""Counting the operations of matrix products, 2 m k n for ``[m, k]`` times ``[k, n]``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def _attention(q: Any, k: Any, v: Any, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(q, k, v))


# PyTorch's counter does not know the attention kernel of CPUs.
_CPU_KERNELS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


def matrix_operations(call: Callable[[], object]) -> int:
    """Operations of the matrix products, convolutions and attention in `call`, which runs once."""
    with FlopCounterMode(display=False, custom_mapping=_CPU_KERNELS) as counter:
        call()
    return int(counter.get_total_flops())
