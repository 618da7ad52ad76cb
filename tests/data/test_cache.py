"""The cache of tokens."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldmodel.data.cache import LatentCache
from worldmodel.data.dataset import Dataset, open_dataset
from worldmodel.errors import UserError


class Grid:
    """An encoder: mean colours of the four quarters, times a weight. Counts what it encodes."""

    num_tokens, dim = 4, 3

    def __init__(self, weight: float = 1.0, stop_after: int = 10**9) -> None:
        self.weight, self.hash = weight, f"grid-{weight}".ljust(32, "0")
        self.frames, self.stop_after = 0, stop_after

    def encode(self, pixels: Any) -> Any:
        if self.frames >= self.stop_after:
            raise KeyboardInterrupt
        self.frames += len(pixels)
        quarters = pixels.float().reshape(len(pixels), 2, 16, 2, 16, 3).mean((2, 4))
        return self.weight * quarters.reshape(len(pixels), 4, 3)


def tokens_of(data: Dataset, weight: float = 1.0) -> Any:
    pixels = data.pixels(slice(None)).astype(np.float32)
    quarters = pixels.reshape(len(data), 2, 16, 2, 16, 3).mean((2, 4))
    return (weight * quarters.reshape(len(data), 4, 3)).astype(np.float16)


def test_cache_is_built_once_and_right(recorded: Path, tmp_path: Path) -> None:
    data, encoder = open_dataset(recorded), Grid()
    cache = LatentCache.open_or_build(data, encoder, tmp_path, batch=64)
    assert cache.tokens.shape == (len(data), 4, 3) and cache.tokens.dtype == np.float16
    np.testing.assert_allclose(cache.tokens, tokens_of(data), rtol=2e-3)
    assert encoder.frames == len(data)
    with pytest.raises(ValueError, match="read-only"):
        cache.tokens[0] = 0
    again = LatentCache.open_or_build(data, encoder, tmp_path, batch=32)
    assert encoder.frames == len(data) and np.array_equal(again.tokens, cache.tokens)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".lock", ".tokens"]


def test_another_encoder_or_dataset_has_its_own_cache(recorded: Path, tmp_path: Path) -> None:
    data = open_dataset(recorded)
    LatentCache.open_or_build(data, Grid(1.0), tmp_path)
    other = LatentCache.open_or_build(data, Grid(2.0), tmp_path)
    np.testing.assert_allclose(other.tokens, tokens_of(data, 2.0), rtol=2e-3)
    assert len(list(tmp_path.glob("*.tokens"))) == 2


@pytest.mark.parametrize("harm", ["flip", "truncate", "stale", "no header", "bad header"])
def test_damaged_cache_is_rebuilt(recorded: Path, tmp_path: Path, harm: str) -> None:
    data = open_dataset(recorded)
    path = LatentCache.open_or_build(data, Grid(), tmp_path, batch=16).path
    header = path.with_suffix(".json")
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[17 * 24 + 5] ^= 1
        path.write_bytes(content)
    elif harm == "truncate":
        path.write_bytes(content[:-24])
    elif harm == "stale":
        header.write_text(json.dumps({**json.loads(header.read_text()), "encoder": "old"}))
    elif harm == "no header":
        header.unlink()
    else:
        header.write_text("[")
    encoder = Grid()
    cache = LatentCache.open_or_build(data, encoder, tmp_path, batch=16)
    assert encoder.frames == len(data)
    np.testing.assert_allclose(cache.tokens, tokens_of(data), rtol=2e-3)


def test_copied_cache_is_reused(recorded: Path, tmp_path: Path) -> None:
    data = open_dataset(recorded)
    path = LatentCache.open_or_build(data, Grid(), tmp_path).path
    os.utime(path, (1, 1))
    encoder = Grid()
    LatentCache.open_or_build(data, encoder, tmp_path)
    assert encoder.frames == 0
    assert json.loads(path.with_suffix(".json").read_text())["mtime_ns"] == 10**9


@pytest.mark.parametrize("harm", [False, True])
def test_interrupted_build_continues(recorded: Path, tmp_path: Path, harm: bool) -> None:
    data = open_dataset(recorded)
    with pytest.raises(KeyboardInterrupt):
        LatentCache.open_or_build(data, Grid(stop_after=64), tmp_path, batch=16)
    assert not list(tmp_path.glob("*.tokens"))
    (partial,) = tmp_path.glob("*.partial")
    content = bytearray(partial.read_bytes())
    if harm:
        content[20 * 24] ^= 1  # in the second batch: only the first still counts
    partial.write_bytes(content + b"torn")
    encoder = Grid()
    cache = LatentCache.open_or_build(data, encoder, tmp_path, batch=16)
    assert encoder.frames == len(data) - (16 if harm else 64)
    np.testing.assert_allclose(cache.tokens, tokens_of(data), rtol=2e-3)
    assert not list(tmp_path.glob("*.partial")) and not list(tmp_path.glob("*.crc"))


def test_unusable_encoders_and_folders_are_named(recorded: Path, tmp_path: Path) -> None:
    data = open_dataset(recorded)
    with pytest.raises(UserError, match="not finite in float16"):
        LatentCache.open_or_build(data, Grid(1e6), tmp_path)
    wrong = Grid()
    wrong.num_tokens = 5
    with pytest.raises(UserError, match="it declares"):
        LatentCache.open_or_build(data, wrong, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the latent cache"):
        LatentCache.open_or_build(data, Grid(), tmp_path / "file" / "root")
