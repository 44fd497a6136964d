"""Evaluate bird's-eye-view detectors with the official nuScenes metrics."""
