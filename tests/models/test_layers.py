"""Building blocks of the networks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from worldmodel.models.layers import MergePatches


@pytest.mark.parametrize("height,width", [(8, 8), (7, 7), (5, 8)])
def test_merged_patches_are_a_convolution_of_stride_2(height: int, width: int) -> None:
    """An odd image is padded with zeros below and to the right, so that no patch is lost."""
    image = torch.randn(3, 4, height, width)
    merge = MergePatches(4, 6)
    weight = merge.linear.weight.unflatten(1, (2, 2, 4)).permute(0, 3, 1, 2)
    padded = F.pad(image, (0, width % 2, 0, height % 2))
    expected = F.conv2d(padded, weight, merge.linear.bias, stride=2)
    torch.testing.assert_close(merge(image), expected, atol=1e-5, rtol=1e-4)
