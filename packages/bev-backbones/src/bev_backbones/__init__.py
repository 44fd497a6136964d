"""Image backbones, necks and BEV encoders for camera-only bird's-eye-view perception."""
