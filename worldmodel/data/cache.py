"""Tokens of every frame of a dataset, computed once and memory-mapped."""

from __future__ import annotations

import json
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from worldmodel.cli import Progress, atomic_write_json, exclusive, progress
from worldmodel.errors import UserError

Array = NDArray[Any]


class FrameSource(Protocol):
    """What is encoded: a `Dataset`, or other images."""

    @property
    def hash(self) -> str:
        """Hex digest of the images."""
        ...

    def __len__(self) -> int: ...

    def pixels(self, frames: slice | Array) -> Array:
        """Images uint8 ``[m, H, W, 3]``."""
        ...


class FrameEncoder(Protocol):
    """The part of an encoder that the cache needs; see `worldmodel.encoders.encoder.Encoder`."""

    hash: str
    num_tokens: int
    dim: int

    def encode(self, pixels: Any) -> Any:
        """uint8 tensor [B, H, W, 3] -> float tensor [B, P, D]."""
        ...


class LatentCache:
    """The tokens of every frame of a dataset, float16 [N, P, D], memory-mapped and read-only.

    A cache is two files, named by the hashes of dataset and encoder: ``KEY.tokens`` has the numbers
    in C order, ``KEY.json`` their shape and a CRC-32 of every chunk.
    """

    def __init__(self, path: Path, tokens: Array) -> None:
        self.path = path
        self.tokens = tokens

    @classmethod
    def open_or_build(
        cls, dataset: FrameSource, encoder: FrameEncoder, root: str | Path, batch: int = 256
    ) -> LatentCache:
        """The cache of a dataset and an encoder, built unless there is a valid one.

        A file that is truncated, damaged or of another dataset or encoder is never used. All CRCs
        are checked if the file was modified since the last check, a few otherwise. An interrupted
        build continues where it stopped.

        Args:
            dataset: whose frames are encoded.
            encoder: the frozen encoder.
            root: folder of the cache.
            batch: frames encoded at once.

        Raises:
            UserError: the folder is not writable, the disk is full, another process is building
                this cache, or the encoder returns tokens of another shape than it declares.
        """
        shape = (len(dataset), int(encoder.num_tokens), int(encoder.dim))
        path = Path(root) / f"{dataset.hash[:16]}-{encoder.hash[:16]}.tokens"
        header = {"dataset": dataset.hash, "encoder": encoder.hash, "shape": list(shape)}
        cache = cls._open(path, header)
        if cache is not None:
            return cache
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with exclusive(path.with_suffix(".lock"), "building the same latent cache"):
                cache = cls._open(path, header)  # another process may have finished it
                if cache is None:
                    _build(path, header, dataset, encoder, batch)
                    cache = cls._open(path, header)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot write the latent cache {path}: {reason}") from None
        if cache is None:
            raise UserError(f"{path} is damaged right after it was written: check the disk")
        return cache

    @classmethod
    def _open(cls, path: Path, header: dict[str, Any]) -> LatentCache | None:
        try:
            found = json.loads(path.with_suffix(".json").read_text())
            stat = path.stat()
            if any(found[name] != value for name, value in header.items()):
                return None
            if stat.st_size != _frame_bytes(header) * header["shape"][0]:
                return None
            tokens = np.memmap(path, np.float16, "r", shape=tuple(header["shape"]))
            sums: list[int] = found["crc32"]
            per_chunk = int(found["frames_per_chunk"])
            touched = stat.st_mtime_ns != found["mtime_ns"]
            every = range(len(sums))
            for chunk in every if touched else every[:: max(1, len(sums) // 8)]:
                if _crc(tokens[chunk * per_chunk : (chunk + 1) * per_chunk]) != sums[chunk]:
                    return None
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return None
        if touched:  # copied, for example: next time a few chunks are enough
            try:
                atomic_write_json(
                    path.with_suffix(".json"), {**found, "mtime_ns": stat.st_mtime_ns}
                )
            except UserError:
                pass  # a read-only folder: every chunk is checked each time
        return cls(path, tokens)


def _crc(tokens: Array) -> int:
    return zlib.crc32(tokens.data)


def _frame_bytes(header: dict[str, Any]) -> int:
    return 2 * header["shape"][1] * header["shape"][2]


def _build(
    path: Path, header: dict[str, Any], dataset: FrameSource, encoder: FrameEncoder, batch: int
) -> None:
    """Encode all frames to a partial file, with the CRC of each chunk beside it; then rename it."""
    partial, checksums = path.with_suffix(".partial"), path.with_suffix(".crc")
    sums = _intact_chunks(partial, checksums, _frame_bytes(header), batch)
    total = header["shape"][0]
    start = min(len(sums) * batch, total)
    bar: Progress[Any] = progress(None, total, "encode", "frame")
    mode = "r+b" if sums else "wb"
    with (
        bar,
        ThreadPoolExecutor(1) as reader,
        open(partial, mode) as file,
        open(checksums, "w") as sums_file,
    ):
        sums_file.write(f"{batch}\n" + "".join(f"{crc}\n" for crc in sums))
        bar.update(start)
        file.truncate(start * _frame_bytes(header))
        file.seek(0, os.SEEK_END)
        chunks = [slice(first, min(first + batch, total)) for first in range(start, total, batch)]
        pending = [reader.submit(dataset.pixels, chunk) for chunk in chunks[:1]]
        for following in [*chunks[1:], None]:
            if not pending:
                break
            pixels = pending.pop().result()
            if following is not None:  # read while the encoder computes
                pending.append(reader.submit(dataset.pixels, following))
            tokens = _encode(encoder, pixels, tuple(header["shape"][1:]))
            file.write(tokens.tobytes())
            file.flush()
            sums.append(_crc(tokens))
            sums_file.write(f"{sums[-1]}\n")
            sums_file.flush()
            bar.update(len(tokens))
        os.fsync(file.fileno())
    os.replace(partial, path)
    found = {"frames_per_chunk": batch, "crc32": sums, "mtime_ns": path.stat().st_mtime_ns}
    atomic_write_json(path.with_suffix(".json"), {**header, "dtype": "float16", **found})
    checksums.unlink()


def _intact_chunks(partial: Path, checksums: Path, frame_bytes: int, batch: int) -> list[int]:
    """CRCs of the leading chunks of an interrupted build that are undamaged."""
    try:
        lines = checksums.read_text().split()
        intact: list[int] = []
        if int(lines[0]) == batch:
            with open(partial, "rb") as file:
                for line in lines[1:]:
                    chunk = file.read(frame_bytes * batch)
                    if len(chunk) != frame_bytes * batch or zlib.crc32(chunk) != int(line):
                        break
                    intact.append(int(line))
        return intact
    except (OSError, ValueError, IndexError):
        return []


def _encode(encoder: FrameEncoder, pixels: Array, shape: tuple[int, int]) -> Array:
    import torch  # not needed to read datasets

    with torch.inference_mode():
        tokens = torch.as_tensor(encoder.encode(torch.from_numpy(pixels)))
        half = tokens.to(torch.float16).cpu().numpy()
    if half.shape != (len(pixels), *shape):
        raise UserError(f"the encoder made tokens {half.shape}: it declares {shape} per frame")
    if not np.isfinite(half).all():
        raise UserError("the encoder made tokens that are not finite in float16: wrong weights?")
    return half
