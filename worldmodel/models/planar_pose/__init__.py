"""A planar pose as latents: an optional plug-in for one rigid object that a robot pushes on a
plane, under a camera that looks straight down.

`PlanarPose` is the representation, `RelativePredictor` a predictor in the object's own frame; both
are found through `worldmodel.models.registry`.
"""

from worldmodel.models.planar_pose.predictor import RelativePredictor
from worldmodel.models.planar_pose.representation import PlanarPose

__all__ = ["PlanarPose", "RelativePredictor"]
