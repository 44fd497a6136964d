"""Pictures of what a bird's-eye-view detector sees."""
