"""The one exception that a user can cause and a user can mend."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input: says what was wrong, with the value, and what to do. Command lines exit with 2."""
