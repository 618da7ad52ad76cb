"""Experiments about a finished model."""
