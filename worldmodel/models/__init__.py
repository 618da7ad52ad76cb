"""World models: representations, predictors, decoders, checkpoints."""
