"""Checks of numbers that users give."""

from __future__ import annotations


def check_count(name: str, value: int) -> None:
    """Raise ValueError unless value is a whole number of at least 1."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_at_least(name: str, value: float, least: float) -> None:
    """Raise ValueError unless value is a number >= least."""
    if not isinstance(value, int | float) or not value >= least:
        raise ValueError(f"{name} must be a number of at least {least}, got {value!r}")


def check_above(name: str, value: float, least: float) -> None:
    """Raise ValueError unless value is a number > least."""
    if not isinstance(value, int | float) or not value > least:
        raise ValueError(f"{name} must be a number above {least}, got {value!r}")


def check_between(name: str, value: float, least: float, most: float) -> None:
    """Raise ValueError unless value is a number from least to most."""
    if not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{name} must be a number from {least} to {most}, got {value!r}")
