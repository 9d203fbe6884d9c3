"""A first guess at what a hole hides, linear in what surrounds it: where to, roughly, eyes, nose and mouth belong.

The conditional mean of a Gaussian on the training faces' first principal components (probabilistic PCA, Tipping and
Bishop 1999), so that one fit serves holes of every shape.
"""

import torch
from torch import nn

from face_math.baselines import components

# What the components leave out counts this many times: neighbouring pixels err alike. Of 10, 30, 60 and 100 the one of
# most decibels in the centre hole of celeba8k's validation faces.
NOISE = 30


class Guess(nn.Module):
    """Fills holes of pictures of a size by `count` components; nothing in it is trained. Zeros until `fit`."""

    def __init__(self, image_size, count):
        super().__init__()
        numbers = 3 * image_size**2
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("axes", torch.zeros(count, numbers, dtype=torch.float16))  # half the file
        self.register_buffer("variances", torch.zeros(count))
        self.register_buffer("noise", torch.zeros(()))

    def fit(self, faces):
        """Take mean, components, their variances and what they leave out, from faces (N, 3 S S)."""
        mean, axes = components(faces.cpu(), len(self.axes))
        variances = ((faces.cpu() - mean) @ axes.T).var(0, correction=0)
        left = (faces.cpu() - mean).square().mean() - variances.sum() / len(mean)
        for buffer, value in zip((self.mean, self.axes, self.variances, self.noise),
                                 (mean, axes, variances, NOISE * left.clamp_min(1e-8)), strict=True):  # fmt: skip
            buffer.copy_(value)

    @torch.no_grad()
    def forward(self, x, hole):
        """Pictures x (N, 3, S, S) with the hole (S, S) bool filled, in [-1, 1]; what it hides is not read."""
        if hole.all():  # nothing is known: the mean face
            return self.mean.view(1, *x.shape[1:]).clamp(-1, 1).expand_as(x)
        hidden, axes = hole.expand(3, -1, -1).flatten(), self.axes.float()
        around, known = axes[:, ~hidden], x.float().flatten(1)[:, ~hidden] - self.mean[~hidden]
        system = around @ around.T + torch.diag(self.noise / self.variances.clamp_min(1e-8))
        codes = torch.linalg.solve(system, around @ known.T).T
        filled = (self.mean + codes @ axes).clamp(-1, 1).unflatten(1, x.shape[1:])
        return torch.where(hole, filled, x)
