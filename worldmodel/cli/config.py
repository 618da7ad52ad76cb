"""Configs from YAML files and dotted flags, checked and typed."""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jsonargparse
import yaml

from worldmodel.errors import UserError

T = TypeVar("T")


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


@dataclasses.dataclass(frozen=True)
class _Keys:
    """What may be configured: the dotted keys of a dataclass and of those nested in it.

    free: dotted key -> whether any sub-key may follow it (a dict).
    lists: those that hold a list, and the type of its items.
    sections: those that are dataclasses -> the field that takes keys which are no fields, or "".
    short: other names for keys.
    positional: the key of an argument without a flag, or "".
    """

    free: dict[str, bool]
    lists: dict[str, Any]
    sections: dict[str, str]
    short: Mapping[str, str]
    positional: str

    @classmethod
    def of(cls, config: type) -> _Keys:
        keys = cls({}, {}, {}, getattr(config, "SHORT", {}), getattr(config, "POSITIONAL", ""))
        keys._add(config, "")
        return keys

    def _add(self, config: type, prefix: str) -> None:
        hints = typing.get_type_hints(config)
        for field in dataclasses.fields(config):
            key, hint = prefix + field.name, hints[field.name]
            options = typing.get_args(hint) or (hint,)
            origins = [typing.get_origin(option) or option for option in (hint, *options)]
            self.free[key] = dict in origins or hint is Any
            if origins[0] is list or (origins[0] is tuple and Ellipsis in options):
                self.lists[key] = options[0]
            for option in options:
                if dataclasses.is_dataclass(option):
                    self.sections[key] = getattr(option, "OPTIONS", "")
                    self._add(typing.cast(type, option), key + ".")

    def full(self, key: str) -> str:
        """The key that a short one stands for, or the key itself."""
        key = self.short.get(key, key)
        section, _, last = key.rpartition(".")
        options = self.sections.get(section)
        return f"{section}.{options}.{last}" if options and key not in self.free else key

    def check(self, key: str, given: str, where: str = "") -> None:
        """Raise UserError, naming the nearest key, unless the full `key` is known.

        Args:
            key: what `full` returned.
            given: the user's spelling.
            where: where it was given, for the message.
        """
        free = self.free
        if key in free or any(free.get(key[:at]) for at, sign in enumerate(key) if sign == "."):
            return
        known = [*free, *self.short]
        # The commonest slip is a right name in the wrong section: compare last parts, too.
        near = difflib.get_close_matches(key, known, 1, 0.6)
        last = key.rpartition(".")[2]
        near += [each for each in known if each.rpartition(".")[2] == last]
        if not near:
            tails = {each.rpartition(".")[2]: each for each in known}
            near = [tails[tail] for tail in difflib.get_close_matches(last, tails, 1, 0.6)]
        dash = "--" if given.startswith("--") else ""
        hint = f"did you mean {dash + near[0]!r}?" if near else "--help lists them all"
        raise UserError(f"unknown {'flag' if dash else 'key'} {given!r}{where}: {hint}")


def _read_yaml(path: Path, keys: _Keys) -> Iterator[tuple[str, Any]]:
    """The full keys and values of a YAML file."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read --config {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path} is not valid YAML: {_one_line(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"--config {path} must hold `key: value` lines, not {content!r:.60}")

    def visit(values: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            key = f"{prefix}{name}"
            if isinstance(value, Mapping) and key in keys.sections:
                yield from visit(value, key + ".")
            else:
                key = keys.full(key)
                keys.check(key, f"{prefix}{name}", f" in {path}")
                yield key, value

    return visit(content, "")


def _read_flags(arguments: list[str], keys: _Keys) -> list[str]:
    """Arguments for jsonargparse: full names, files of --config in place of their name, and lists
    gathered from flags that were given several times."""
    result: list[str] = []
    lists: dict[str, list[Any]] = {}
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("--") or len(argument) == 2:
            result.append(f"--{keys.positional}={argument}" if keys.positional else argument)
            continue
        given, sign, value = argument.partition("=")
        name = given[2:].replace("-", "_")
        if name == "help":
            result.append(argument)
            continue
        key = keys.full(name)
        if name != "config":
            keys.check(key, f"--{name}")
        if not sign:
            value = next(rest, "--")
            if value.startswith("--"):
                raise UserError(f"--{name} needs a value")
        pairs = _read_yaml(Path(value), keys) if name == "config" else [(key, value)]
        for key, value in pairs:
            if key not in keys.lists:
                text = value if isinstance(value, str) else json.dumps(value, default=str)
                result.append(f"--{key}={text}")
            elif isinstance(value, list) or (isinstance(value, str) and value.startswith("[")):
                lists[key] = value if isinstance(value, list) else yaml.safe_load(value)
            else:
                item = value if keys.lists[key] is str else yaml.safe_load(value)
                lists.setdefault(key, []).append(item)
    return result + [f"--{key}={json.dumps(value)}" for key, value in lists.items()]


def parse_config(cls: type[T], argv: list[str] | None, prog: str, description: str) -> T:
    """Fill the frozen dataclass `cls` from ``--config file.yaml`` and dotted flags.

    Later arguments win over earlier ones, so flags after ``--config`` override the file.
    Fields may be dataclasses (``--agent.samples 64``), dicts (``--env_kwargs.layout U``) or lists,
    whose flags may be given again. A string just below a field is its help text. Three class
    attributes add to that:

    - ``SHORT: ClassVar = {"guardrail": "agent.guardrails"}``: other names for keys;
    - ``OPTIONS: ClassVar = "options"`` of a nested dataclass: keys that are none of its fields go
      into this field, a dict (``--planner.beta 2`` is ``--planner.options.beta 2``);
    - ``POSITIONAL: ClassVar = "source"``: the field that an argument without a flag fills.

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
    keys = _Keys.of(cls)
    arguments = _read_flags(list(sys.argv[1:] if argv is None else argv), keys)
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    short = (f"--{name} is short for --{full}" for name, full in keys.short.items())
    parser = jsonargparse.ArgumentParser(
        prog=f"python -m {prog}",
        description=description,
        epilog="; ".join(short),
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", help="YAML file with any of the keys below")
    parser.add_class_arguments(cls)
    try:
        found = vars(parser.instantiate(parser.parse_args(arguments)))
        return cls(**{field.name: found[field.name] for field in dataclasses.fields(cls)})  # type: ignore[arg-type]
    except UserError:
        raise
    except (ValueError, TypeError, jsonargparse.ArgumentError) as error:
        raise UserError(_explain(error)) from None


def _explain(error: Exception) -> str:
    """jsonargparse's message on one line, in plain words."""
    text = _one_line(error)
    for found, plain in (
        ('Parser key "', 'the value of "'),
        ("the following arguments are required: ", "missing, and required: --"),
        ("<class 'int'>", "whole number"),
        ("<class 'float'>", "number"),
        ("<class 'bool'>", "true or false"),
        ("typing.Literal", "choice out of "),
    ):
        text = text.replace(found, plain)
    return text
