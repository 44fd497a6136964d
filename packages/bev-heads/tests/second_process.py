"""Started by test_losses.py as the second of two processes; prints the heatmap loss of a process without any peak."""

import sys

import torch
from torch import distributed

from bev_heads import CenterOutput, CenterTargets, center_loss

distributed.init_process_group("gloo", init_method=sys.argv[1], rank=1, world_size=2)
target = CenterTargets(
    torch.zeros(1, 1, 1, 4), torch.zeros(1, 2).long(), torch.zeros(1, 2, 10), torch.zeros(1, 2).bool()
)
output = CenterOutput(*(torch.zeros(1, channels, 1, 4) for channels in (1, 2, 1, 3, 2, 2)))
print(center_loss([output], [target])["task0.loss_heatmap"].item())
distributed.destroy_process_group()
