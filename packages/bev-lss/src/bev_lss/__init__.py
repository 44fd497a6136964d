"""Camera geometry and lift-splat view transforms."""
