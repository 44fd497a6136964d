"""nuScenes for camera-only perception: index, data set, augmentation, evaluation, synthetic worlds."""
