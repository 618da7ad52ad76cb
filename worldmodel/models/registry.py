"""Representations and predictors by name.

A class registers itself under a name, and a model's config refers to it by that name:

    @REPRESENTATIONS.register("mine")
    class Mine(Representation): ...

Modules that come with the package are imported when one of their names is first looked up.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from worldmodel.errors import UserError

if TYPE_CHECKING:
    from worldmodel.models.predictors import Predictor
    from worldmodel.models.representations import Representation

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes by name.

    Args:
        kind: what the classes are, for error messages.
        modules: the module that registers each name of the package's own.
    """

    def __init__(self, kind: str, modules: dict[str, str]):
        self.kind, self.modules = kind, modules
        self.classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """A class decorator that registers the class as `name`."""

        def add(cls: type[T]) -> type[T]:
            self.classes[name] = cls
            return cls

        return add

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self.modules, *self.classes}))

    def __getitem__(self, name: str) -> type[T]:
        """The class of this name.

        Raises:
            UserError: no class is registered under it.
        """
        if name not in self.classes and name in self.modules:
            importlib.import_module(self.modules[name])
        if name not in self.classes:
            near = difflib.get_close_matches(name, list(self), 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"unknown {self.kind} {name!r}: {hint}known are {', '.join(self)}")
        return self.classes[name]


REPRESENTATIONS: Registry[Representation] = Registry(
    "representation",
    {
        "patch_adapter": "worldmodel.models.patch_adapter",
        "principal_components": "worldmodel.models.principal_components",
        "patch_pictures": "worldmodel.models.patch_pictures",
        "planar_pose": "worldmodel.models.planar_pose",
    },
)
PREDICTORS: Registry[Predictor] = Registry(
    "predictor",
    {
        "transformer": "worldmodel.models.predictors",
        "mlp": "worldmodel.models.predictors",
        "local": "worldmodel.models.predictors",
        "relative": "worldmodel.models.planar_pose",
    },
)
