"""Bird's-eye-view operators for PyTorch: lift-splat pooling, rotated and circle NMS, box overlap."""
