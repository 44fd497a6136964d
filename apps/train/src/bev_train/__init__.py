"""Train bird's-eye-view detectors."""
