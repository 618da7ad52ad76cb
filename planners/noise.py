"""Gaussian noise over the horizon, white or coloured."""

from __future__ import annotations

import torch
from torch import Tensor


def coloured(
    shape: tuple[int, int, int, int], beta: float, like: Tensor, generator: torch.Generator
) -> Tensor:
    """Noise [E, S, T, A] with zero mean, unit variance and spectrum 1 / f^beta over T.

    beta 0 is white; around 1 to 3, neighbouring steps move together, so that samples move in
    one direction instead of jittering in place (Pinneri et al., Sample-efficient CEM for real-time
    planning, 2020; filtering in the frequency domain after Timmer and Koenig, 1995). Drawn on
    the CPU, so that a seed means the same on any device; returned as the dtype and device of
    `like`.
    """
    episodes, samples, steps, size = shape
    # The filter is periodic: at twice the length, the last step is not a neighbour of the first.
    length = 2 * steps if beta else steps
    noise = torch.randn(episodes, samples, length, size, generator=generator)
    if beta:
        frequency = torch.fft.fftfreq(length).abs().clamp(min=1 / length)
        gain = frequency.pow(-beta / 2)
        gain = gain / gain.square().mean().sqrt()
        half = gain[: length // 2 + 1, None]
        noise = torch.fft.irfft(torch.fft.rfft(noise, dim=2) * half, n=length, dim=2)[:, :, :steps]
    noise = noise.to(like.dtype)
    if like.is_cuda:  # from pinned memory, so that the copy does not wait for the GPU
        return noise.pin_memory().to(like.device, non_blocking=True)
    return noise.to(like.device)
