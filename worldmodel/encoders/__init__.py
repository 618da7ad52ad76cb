"""Encoders: images to patch tokens."""
