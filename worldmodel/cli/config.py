"""Configs from YAML files and dotted flags, checked and typed."""

from __future__ import annotations

import dataclasses
import difflib
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jsonargparse
import yaml

from worldmodel.errors import UserError

T = TypeVar("T")


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


def _fields(cls: type, prefix: str = "") -> dict[str, bool]:
    """Dotted key of every field -> whether any sub-key may follow it (a plain dict)."""
    keys: dict[str, bool] = {}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        key, hint = prefix + field.name, hints[field.name]
        options = typing.get_args(hint) or (hint,)
        nested = [option for option in options if dataclasses.is_dataclass(option)]
        origins = [typing.get_origin(option) or option for option in (hint, *options)]
        keys[key] = dict in origins or hint is Any
        for inner in nested:
            keys.update(_fields(typing.cast(type, inner), key + "."))
    return keys


def _check_key(key: str, keys: Mapping[str, bool], said: str, where: str = "") -> None:
    """Raise UserError naming the nearest key unless `key` is known. `said`: the user's spelling."""
    if key in keys or any(keys.get(key[:at]) for at, sign in enumerate(key) if sign == "."):
        return
    # A right name under the wrong parent is the commonest slip: compare last parts too.
    near = difflib.get_close_matches(key, keys, 1, 0.6)
    last = key.rpartition(".")[2]
    near += [known for known in keys if known.rpartition(".")[2] == last]
    if not near:
        tails = {known.rpartition(".")[2]: known for known in keys}
        near = [tails[tail] for tail in difflib.get_close_matches(last, tails, 1, 0.6)]
    dash = "--" if said.startswith("--") else ""
    hint = f"did you mean {dash + near[0]!r}?" if near else "--help lists them all"
    raise UserError(f"unknown {'flag' if dash else 'key'} {said!r}{where}: {hint}")


def _check_yaml(path: Path, keys: Mapping[str, bool]) -> None:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read --config {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path} is not valid YAML: {_one_line(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"--config {path} must hold `key: value` lines, not {content!r:.60}")

    def visit(values: Mapping[Any, Any], prefix: str) -> None:
        for name, value in values.items():
            key = f"{prefix}{name}"
            _check_key(key, keys, key, f" in {path}")
            if isinstance(value, Mapping) and not keys.get(key, True):
                visit(value, key + ".")

    visit(content, "")


def _check_arguments(arguments: list[str], keys: Mapping[str, bool]) -> None:
    known = {**keys, "config": False, "help": False, "print_config": False}
    for position, argument in enumerate(arguments):
        if argument.startswith("--") and len(argument) > 2:
            flag, has_value, value = argument.partition("=")
            _check_key(flag[2:].removesuffix("+").removesuffix(".help"), known, flag)
            if flag == "--config":
                following = arguments[position + 1 : position + 2]
                for path in [value] if has_value else following:
                    _check_yaml(Path(path), keys)


def parse_config(cls: type[T], argv: list[str] | None, prog: str, description: str) -> T:
    """Fill the frozen dataclass `cls` from ``--config file.yaml`` and dotted flags.

    Later arguments win over earlier ones, so flags after ``--config`` override the file.
    Fields may be dataclasses (``--model.depth 4``), dicts (``--env_kwargs.layout U``) or lists, the
    flags of which may be given again. A string just below a field is its help text.

    Args:
        cls: dataclass type; a field without default is a required flag.
        argv: arguments without the program's name; None means ``sys.argv[1:]``. ``--budget-ms`` is
            ``--budget_ms``.
        prog: module that is run, shown as ``python -m prog``.
        description: one sentence for ``--help``.

    Raises:
        UserError: unknown key or flag (naming the nearest known one), a value of the wrong type,
            a missing required one, an unreadable file, or a ValueError out of ``__post_init__``.
    """
    arguments = [_underscored(each) for each in (sys.argv[1:] if argv is None else argv)]
    _check_arguments(arguments, _fields(cls))
    hints = typing.get_type_hints(cls)
    lists = {f"--{name}" for name, hint in hints.items() if typing.get_origin(hint) is list}
    for at, argument in enumerate(arguments):
        flag, sign, value = argument.partition("=")
        if flag in lists and not (value or "".join(arguments[at + 1 : at + 2])).startswith("["):
            arguments[at] = f"{flag}+{sign}{value}"  # jsonargparse's way to append
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog=f"python -m {prog}", description=description, exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the keys below")
    parser.add_class_arguments(cls)
    try:
        found = vars(parser.instantiate(parser.parse_args(arguments)))
        return cls(**{field.name: found[field.name] for field in dataclasses.fields(cls)})  # type: ignore[arg-type]
    except UserError:
        raise
    except (ValueError, TypeError, jsonargparse.ArgumentError) as error:
        raise UserError(_explain(error)) from None


def _underscored(argument: str) -> str:
    """``--a-flag=a-value`` as ``--a_flag=a-value``."""
    flag, sign, value = argument.partition("=")
    return f"--{flag[2:].replace('-', '_')}{sign}{value}" if flag.startswith("--") else argument


def _explain(error: Exception) -> str:
    """jsonargparse's message on one line, in a user's words."""
    text = _one_line(error)
    for said, plain in (
        ('Parser key "', 'the value of "'),
        ("the following arguments are required: ", "missing, and required: --"),
        ("<class 'int'>", "whole number"),
        ("<class 'float'>", "number"),
        ("<class 'bool'>", "true or false"),
        ("typing.Literal", "choice out of "),
    ):
        text = text.replace(said, plain)
    return text
