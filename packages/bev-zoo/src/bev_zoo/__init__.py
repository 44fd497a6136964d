"""Recipes, detectors and checkpoints of the BEVDet family."""
