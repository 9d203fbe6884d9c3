"""Which attributes a photo shows, so that nobody labels one by hand: a small network for all 40 of CelebA's."""

import torch
from torch import nn

from common.celeba import ATTRIBUTES, to_tensor

SIZE = 64  # the pictures it reads, whatever the size of those that are generated


class Predictor(nn.Module):
    """Square face crops (N, 3, 64, 64) in [-1, 1] -> logits (N, 40)."""

    def __init__(self, width=32):
        super().__init__()
        layers, inputs = [], 3
        for outputs in (width, 2 * width, 4 * width, 8 * width):  # 32, 16, 8, 4 pixels
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs),
                       nn.LeakyReLU(0.1)]  # fmt: skip
            inputs = outputs
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.5), nn.Linear(inputs * 16, len(ATTRIBUTES)))

    def forward(self, x):
        return self.layers(x)


def shifted(x, numbers, most=4):
    """Pictures x (N, 3, H, W), each moved by up to `most` pixels, edges repeated. numbers: (2, N) in [0, 1)."""
    size = x.shape[2:]
    x = nn.functional.pad(x, (most,) * 4, mode="replicate")
    moves = (numbers * (2 * most + 1)).long().T.tolist()
    return torch.stack([image[:, down : down + size[0], right : right + size[1]]
                        for image, (down, right) in zip(x, moves, strict=True)])  # fmt: skip


@torch.no_grad()
def predict(predictor, images):
    """Pictures (N, 64, 64, 3) uint8 -> (N, 40) 1 or 0."""
    device = next(predictor.parameters()).device
    predictor.eval()
    return torch.cat([(predictor(to_tensor(images[i : i + 64], device)) > 0).float().cpu()
                      for i in range(0, len(images), 64)])  # fmt: skip


def balanced_accuracy(said, truth):
    """Mean over yes and no of the share read right, for each column of (N, A) 1 / 0; nan where there is one kind."""
    yes, no = truth == 1, truth == 0
    right = (said == truth).float()
    return ((right * yes).sum(0) / yes.sum(0) + (right * no).sum(0) / no.sum(0)) / 2
