"""The report about a model: one HTML page."""
