"""bev-train on a model whose losses are sums over samples: batch norm as in evaluation, and no depth loss.

Only then can processes with parts of a batch reproduce one process with all of it. Batch norm sees the samples of its
process (PyTorch shares it on GPUs only), and the depth loss is, as published, a mean over the pixels of its process.
"""

from __future__ import annotations

import sys

from torch.nn.modules.batchnorm import _NormBase

from bev_train.__main__ import main
from bev_zoo import Detector

if __name__ == "__main__":
    _NormBase.training = property(lambda self: False, lambda self, mode: None)
    Detector._depth_loss = lambda self, depth, targets: 0 * depth.sum()
    sys.exit(main())
