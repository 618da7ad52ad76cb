"""Writing programs as files of torch.export and ONNX."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from worldmodel.cli import atomic_write_bytes
from worldmodel.deploy.programs import Function, Program, Values
from worldmodel.errors import UserError

README, DESCRIPTION = "README.md", "export.json"
FILES = {README, DESCRIPTION} | {
    f"{name}.{ending}"
    for name in ("encoder", "predictor", "distance")
    for ending in ("pt2", "onnx")
}


def write_program(
    program: Program, folder: Path, onnx: bool, device: str | torch.device = "cpu"
) -> dict[str, Function]:
    """Write a program to `folder`, for `device`; returns the loaded programs by file name."""
    example = tuple(
        torch.zeros(
            [2 if n == "B" else int(n) for n in port.shape],
            dtype=getattr(torch, port.dtype),
            device=device,
        )
        for port in program.inputs
    )
    batch = torch.export.Dim("B")
    dynamic = tuple({0: batch} if port.shape[0] == "B" else None for port in program.inputs)
    exported = torch.export.export(program.module, example, dynamic_shapes=dynamic)
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    path = folder / f"{program.name}.pt2"
    atomic_write_bytes(path, buffer.getvalue())
    written: dict[str, Function] = {path.name: torch.export.load(path).module()}
    if onnx:
        path = path.with_suffix(".onnx")
        write_onnx(program, exported, path)
        written[path.name] = load_onnx(path)
    return written


def write_onnx(program: Program, exported: torch.export.ExportedProgram, path: Path) -> None:
    """Write a program as one ONNX file, weights included."""
    inputs, outputs = ([port.name for port in ports] for ports in (program.inputs, program.outputs))
    converted = torch.onnx.export(
        exported, dynamo=True, input_names=inputs, output_names=outputs, verbose=False
    )
    assert converted is not None
    converted.save(path, external_data=False)


def load_onnx(path: Path) -> Function:
    """The program in an ONNX file, run by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]

    def function(*inputs: Tensor) -> Values:
        found = session.run(None, dict(zip(names, map(Tensor.numpy, inputs), strict=True)))
        return tuple(map(torch.from_numpy, found))

    return function


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """An empty folder that replaces `out` at the end of the ``with`` block; after an exception it
    is deleted and `out` stays.

    Raises:
        UserError: `out` cannot be written, or holds files that no export wrote.
    """
    out = out.absolute()
    try:
        existing = {path.name for path in out.iterdir()} if out.exists() else set()
        if existing - FILES or (existing and DESCRIPTION not in existing):
            other = min(existing - FILES or existing)
            raise UserError(f"{out} holds more than an export, {other}: choose another folder")
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from None
    with temporary as place:
        new, old = Path(place) / "new", Path(place) / "old"
        new.mkdir()
        yield new
        if out.exists():
            os.rename(out, old)
        os.rename(new, out)
