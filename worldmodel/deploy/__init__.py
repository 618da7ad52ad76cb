"""Programs for robots without this package."""
