"""The page of `worldmodel.app`: scenes, session (data), view (pictures), layout, page, server."""
