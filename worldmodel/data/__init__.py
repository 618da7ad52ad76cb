"""Datasets: recorded, read, cached."""
