"""The page of worldmodel.app."""
