"""The exception for errors that a user can cause and correct."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input. The message has the value, what is wrong and what to do; commands exit with 2."""
