"""Training of world models and decoders."""
