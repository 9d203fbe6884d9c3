"""Anomaly detection by reconstruction error: pictures that are no normal faces, and how well a score tells them apart.

Each kind takes and gives (N, 3, H, W) in [-1, 1]; all randomness comes from the generator.
"""

import math

import torch
import torch.nn.functional as F

from hyperencoder.model import resize


def upside_down(x, generator):
    """Turned by half a turn's mirror: top and bottom change places."""
    return x.flip(2)


def shuffled_blocks(x, generator):
    """A 4 x 4 grid of blocks in another order for each picture."""
    n, c, h, w = x.shape
    x = resize(x, (h // 4 * 4, w // 4 * 4))
    blocks = F.unfold(x, (h // 4, w // 4), stride=(h // 4, w // 4))
    order = torch.stack([torch.randperm(16, generator=generator) for _ in range(n)]).to(x.device)
    blocks = blocks.gather(2, order[:, None].expand_as(blocks))
    return F.fold(blocks, x.shape[2:], (h // 4, w // 4), stride=(h // 4, w // 4))


def occluded_eyes(x, generator):
    """A black bar over the eyes: the band from 0.3 to 0.45 of a face crop's height."""
    x = x.clone()
    h, w = x.shape[2:]
    x[:, :, round(0.3 * h) : round(0.45 * h), round(0.1 * w) : round(0.9 * w)] = -1
    return x


def blur(x, generator):
    """Gaussian blur with a spread of 4% of the height."""
    sigma = 0.04 * x.shape[2]
    t = torch.arange(-math.ceil(3 * sigma), math.ceil(3 * sigma) + 1, device=x.device)
    kernel = torch.exp(-((t / sigma) ** 2) / 2).expand(3, 1, 1, -1)
    kernel = kernel / kernel.sum(3, keepdim=True)
    r = len(t) // 2
    x = F.conv2d(F.pad(x, (r, r, 0, 0), mode="reflect"), kernel, groups=3)
    return F.conv2d(F.pad(x, (0, 0, r, r), mode="reflect"), kernel.transpose(2, 3), groups=3)


def other_pictures(x, generator):
    """No faces: a random window of a quarter of the side from each picture, enlarged (hair, cheek, background)."""
    h, w = x.shape[2] // 4, x.shape[3] // 4
    windows = []
    for picture in x:
        top = torch.randint(x.shape[2] - h + 1, (), generator=generator)
        left = torch.randint(x.shape[3] - w + 1, (), generator=generator)
        windows.append(picture[:, top : top + h, left : left + w])
    return resize(torch.stack(windows), x.shape[2:])


ANOMALIES = {kind.__name__: kind for kind in (upside_down, shuffled_blocks, occluded_eyes, blur, other_pictures)}


def roc_auc(normal, anomalous):
    """Area under the ROC curve of two 1-d tensors of scores: the chance that an anomalous one scores higher.

    Ties count half (Mann & Whitney 1947). 0.5 is guessing, 1 always right.
    """
    difference = anomalous[:, None] - normal[None]
    return ((difference > 0).double().mean() + (difference == 0).double().mean() / 2).item()
