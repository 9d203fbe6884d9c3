"""The document's prototype data, handwritten digits: read, deformed, clustered, and what is to be read in them.

Both kinds of data come as Records have it: images (N, S, S, 3) uint8, names, rows(part), and labels (N,).
"""

import gzip
import importlib.util
import math
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from common.celeba import PARTS, Records, to_tensor
from common.photos import InputError


class Digits:
    """Digits in memory. images: (N, S, S, 3) uint8; labels: (N,); names; part: (N,), 0, 1 or 2 as in PARTS."""

    def __init__(self, images, labels, part):
        self.images, self.labels, self.part = images, labels, part
        self.names = [f"{number:05d}.png" for number in range(len(images))]

    def rows(self, part):
        """The numbers of the pictures of "train", "validation" or "test"."""
        return np.flatnonzero(self.part == PARTS.index(part))

    describe = Records.describe


def load_digits(kind, size, dataset_dir, download):
    """Digits of a kind, white on black, enlarged to size x size.

    kind: "digits", the 1,797 of 8 x 8 that scikit-learn ships (a fifth for validation, a fifth for test, by a fixed
    shuffle); or "mnist", read with torchvision from dataset_dir, where download may put it (5,000 of its 60,000 for
    validation, its own test part). InputError: they are not there.
    """
    if kind == "digits":
        pictures, labels = read_digits()
        part = np.array([0, 0, 0, 1, 2])[np.random.default_rng(0).permutation(len(labels)) * 5 // len(labels)]
    else:
        (pictures, labels), test = (read_mnist(dataset_dir, train, download) for train in (True, False))
        validation = min(5000, len(labels) // 6)
        part = np.repeat([0, 1, 2], [len(labels) - validation, validation, len(test[1])])
        pictures, labels = np.concatenate([pictures, test[0]]), np.concatenate([labels, test[1]])
    larger = np.stack([cv2.resize(picture, (size, size), interpolation=cv2.INTER_CUBIC) for picture in pictures])
    grey = larger.round().clip(0, 255).astype(np.uint8)
    return Digits(np.repeat(grey[..., None], 3, 3), labels, part)


def read_digits():
    """scikit-learn's, (1797, 10, 10) from 0 to 255: with a border, which they touch, since they are to be slanted."""
    spec = importlib.util.find_spec("sklearn")  # its file is read without importing it, which takes seconds
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz" if spec else None
    if path is None or not path.exists():
        raise InputError("--data digits needs scikit-learn's digits: pip install scikit-learn")
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    pictures = table[:, :64].reshape(-1, 8, 8) * (255 / 16)
    return np.pad(pictures, ((0, 0), (1, 1), (1, 1))), table[:, 64].astype(np.int64)


def read_mnist(dataset_dir, train, download):
    """MNIST's training or test digits, (N, 32, 32) from 0 to 255, and their labels (N,)."""
    from torchvision.datasets import MNIST

    if dataset_dir is None:
        raise InputError("--data mnist needs --dataset_dir: the folder with torchvision's MNIST, or for --download")
    try:
        found = MNIST(dataset_dir, train=train, download=download)
    except (RuntimeError, AssertionError, ValueError, OSError) as error:  # the last three: files that are damaged
        advice = "try again, or fetch it by other means" if download else "add --download once"
        raise InputError(f"no MNIST in {dataset_dir}: {advice} ({error})") from None
    return np.pad(found.data.numpy().astype(np.float32), ((0, 0), (2, 2), (2, 2))), found.targets.numpy()


def deform(x, numbers, slant=0.3, width=0.25):
    """Digits (N, 3, S, S) slanted and stretched: a shear of up to `slant`, width by up to `width`, in each direction.

    numbers: (2, N) in [-1, 1], of slant and width. What comes in is black.
    """
    return shear(x, numbers[0] * slant, numbers[1] * width)


def shear(x, lean, wide=0.0):
    """Digits (N, 3, S, S) with lean (N,) added to the column per row, made wider by the share `wide`; black outside."""
    zero = torch.zeros_like(lean)
    rows = [torch.stack([zero + 1 / (1 + wide), lean, zero], 1), torch.stack([zero, zero + 1, zero], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), x.shape, align_corners=False)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1


def cluster(images, count, device, most=5000):
    """Which of `count` clusters each picture (N, S, S, 3) uint8 is in, (N,) int64; -1 beyond the first `most`.

    Spectral clustering (Ng, Jordan and Weiss 2001) without labels: pictures are joined with the few that look most like
    them, as they are and set upright, in place and moved by two pixels, and the graph's first eigenvectors (two more
    than clusters) are grouped by k-means.
    """
    x = to_tensor(images[:most], device)
    lean = -shape_of(x)["slant"].to(x)
    upright = shear(x, lean)
    graph = torch.zeros(len(x), len(x), dtype=torch.float64)
    for pictures in (x, upright):
        small = F.avg_pool2d(pictures[:, :1] + 1, pictures.shape[2] // 16)
        flat = F.normalize(small.flatten(1), dim=1)
        likeness = flat @ flat.T
        for moves in ([(0, 0)], [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]):
            for move in moves:
                moved = F.normalize(torch.roll(small, move, (2, 3)).flatten(1), dim=1)
                likeness = torch.maximum(likeness, flat @ moved.T)
            likeness = torch.maximum(likeness, likeness.T).fill_diagonal_(-1)
            order = likeness.topk(min(6, len(x) - 1)).indices.cpu()
            for rank in range(order.shape[1]):  # the nearest three count fully, the sixth a quarter
                graph[torch.arange(len(x)), order[:, rank]] += min(1, (order.shape[1] - rank) / 4)
    graph = graph + graph.T
    degree = graph.sum(1)
    vectors = torch.linalg.eigh(graph / (degree[:, None] * degree).sqrt())[1][:, -(count + 2) :]
    found = k_means(F.normalize(vectors, dim=1), count)
    return np.concatenate([found.numpy(), np.full(len(images) - len(x), -1)])


def k_means(points, count, restarts=20):
    """The cluster (N,) of points (N, D), the best of so many random starts (k-means++)."""
    random, best, kept = torch.Generator().manual_seed(0), math.inf, None
    for _ in range(restarts):
        centres = points[torch.randint(len(points), (1,), generator=random)]
        while len(centres) < count:
            distance = torch.cdist(points, centres).min(1).values.square() + 1e-12
            centres = torch.cat([centres, points[torch.multinomial(distance, 1, generator=random)]])
        for _ in range(50):
            nearest = torch.cdist(points, centres).argmin(1)
            groups = [points[nearest == i] for i in range(count)]
            means = [group.mean(0) if len(group) else centres[i] for i, group in enumerate(groups)]
            centres = torch.stack(means)
        error = (points - centres[nearest]).square().sum().item()
        if error < best:
            best, kept = error, nearest
    return kept


def shape_of(x):
    """Width (deviation of the ink from its middle across, in shares of the side) and slant (shear) of digits, (N,).

    x: (N, 3, S, S) in [-1, 1]. Slant is what has to be added to the column per row going up; 0 is upright.
    """
    ink = (x[:, 0].cpu() / 2 + 0.5).clamp(min=0)
    ink = ink / ink.sum((1, 2), keepdim=True).clamp(min=1e-6)
    axis = torch.linspace(-0.5, 0.5, x.shape[2])
    across = axis[None, None] - (ink.sum(1) @ axis)[:, None, None]
    up = (ink.sum(2) @ axis)[:, None, None] - axis[:, None]
    moments = [(ink * product).sum((1, 2)) for product in (across**2, across * up, up**2)]
    slant = moments[1] / moments[2].clamp(min=1e-6)
    # The width that is left once the digit is set upright: a slanted one is broad for another reason.
    return dict(width=(moments[0] - slant * moments[1]).clamp(min=0).sqrt(), slant=slant)


def find_clusters(records, rows, latent, device):
    """What digits are to be read as, by row of the records, (N,): their cluster among rows, -1 for none."""
    clusters = torch.full((len(records.names),), -1, device=device)
    if latent.categorical:
        clusters[rows] = torch.from_numpy(cluster(records.images[rows], latent.categorical[0], device)).to(device)
    return clusters


def digit_loss(latent, first, twin, found, moved):
    """What is to be read in real digits and in the same ones deformed otherwise, (N, L) raw each.

    The first category: the cluster that was found for the digit (N,), -1 for none. The first continuous numbers: to
    differ by half of what was done to one and not to the other, moved (N, 2) from -2 to 2.
    """
    (_, classes, continuous), (_, _, twins) = latent.parts(first), latent.parts(twin)
    known = min(2, latent.continuous)
    difference = torch.tanh(continuous[:, :known]) - torch.tanh(twins[:, :known])
    loss = F.mse_loss(difference, moved[:, :known] / 2) if known else first.new_zeros(())
    if latent.categorical:
        each = F.cross_entropy(classes[0], found, ignore_index=-1, reduction="sum")
        loss = loss + each / (found >= 0).sum().clamp(min=1)
    return loss
