"""Choosing the device that computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldmodel.errors import UserError

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" is the first of cuda, mps and cpu that this machine has.

    Args:
        name: "auto", "cpu", "cuda", "mps", or one GPU of several, such as "cuda:1".

    Raises:
        UserError: no device is called so, or this machine does not have it.
    """
    import torch  # slow to import: not before a device is asked for

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in DEVICES:
        raise UserError(f"device is {name!r}: use one of {', '.join(DEVICES)}")
    count = {"cuda": torch.cuda.device_count() if cuda else 0, "mps": int(mps), "cpu": 1}
    if (device.index or 0) >= count[device.type]:
        raise UserError(f"device is {name!r}, but this machine has no such device: use auto or cpu")
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether `device` computes in bfloat16 with instructions of its own."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        checks = (torch.cpu._is_avx512_bf16_supported, torch.cpu._is_amx_tile_supported)
        return any(check() for check in checks)
    return False


def autocast(device: torch.device) -> torch.autocast:
    """A context that computes in bfloat16, if `device` has instructions for it."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))
