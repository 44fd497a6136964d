"""Detection heads on bird's-eye-view features: targets, losses, decoding."""
