"""The document's prototype data: handwritten digits, and the classifier that says which digit a picture shows.

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
from torch import nn
from torchvision.datasets import MNIST

from common.celeba import PARTS, to_tensor
from common.photos import InputError


class Digits:
    """Digits in memory. images: (N, S, S, 3) uint8; labels: (N,); names; part: (N,), 0, 1 or 2 as in PARTS."""

    def __init__(self, images, labels, part):
        self.images, self.labels, self.part = images, labels, part
        self.names = [f"{number:05d}.png" for number in range(len(images))]

    def rows(self, part):
        """The numbers of the pictures of "train", "validation" or "test"."""
        return np.flatnonzero(self.part == PARTS.index(part))


def load_digits(kind, size, dataset_dir, download):
    """Digits of a kind, white on black, enlarged to size x size.

    kind: "digits", the 1,797 of 8 x 8 that scikit-learn ships (a fifth for validation, a fifth for test, by a fixed
    shuffle); or "mnist", read with torchvision from dataset_dir, where download may put it (5,000 of its 60,000 for
    validation, its own test part). InputError: they are not there.
    """
    if kind == "digits":
        spec = importlib.util.find_spec("sklearn")  # its file is read without importing it, which takes seconds
        path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz" if spec else None
        if path is None or not path.exists():
            raise InputError("--data digits needs scikit-learn's digits: pip install scikit-learn")
        with gzip.open(path, "rt") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.float32)
        pictures, labels = table[:, :64].reshape(-1, 8, 8) * (255 / 16), table[:, 64].astype(np.int64)
        pictures = np.pad(pictures, ((0, 0), (1, 1), (1, 1)))  # they touch the border, and are to be slanted
        part = np.minimum(np.random.default_rng(0).permutation(len(labels)) * 5 // len(labels), 4)
        part = np.array([0, 0, 0, 1, 2])[part]
    else:
        if dataset_dir is None:
            raise InputError("--data mnist needs --dataset_dir: the folder with torchvision's MNIST, or for --download")
        try:
            train, test = (MNIST(dataset_dir, train=train, download=download) for train in (True, False))
        except RuntimeError as error:
            raise InputError(f"no MNIST in {dataset_dir}: add --download once ({error})") from None
        pictures = np.concatenate([train.data.numpy(), test.data.numpy()]).astype(np.float32)
        pictures = np.pad(pictures, ((0, 0), (2, 2), (2, 2)))
        labels = np.concatenate([train.targets.numpy(), test.targets.numpy()])
        part = np.repeat([0, 1, 2], [max(1, len(train) - min(5000, len(train) // 6)), min(5000, len(train) // 6),
                                     len(test)])  # fmt: skip
    larger = np.stack([cv2.resize(picture, (size, size), interpolation=cv2.INTER_CUBIC) for picture in pictures])
    grey = larger.round().clip(0, 255).astype(np.uint8)
    return Digits(np.repeat(grey[..., None], 3, 3), labels, part)


class DigitClassifier(nn.Module):
    """A picture of a digit (N, 3, 32, 32) -> ten logits: the judge of what a category of the code means."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2, 2), nn.ReLU(),
                                    nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * 64, 10))  # fmt: skip

    def forward(self, x):
        return self.layers(x[:, :1])


def train_digit_classifier(records, device, epochs=20):
    """The judge, trained on the training digits, slightly moved about; and its accuracy on the test digits.

    No generator has a part in it, and it has none in training one.
    """
    random = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = DigitClassifier().to(device)
        optimizer = torch.optim.Adam(classifier.parameters(), 0.002)
        rows = records.rows("train")
        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = 0.002 * (1 - epoch / epochs)
            for chosen in torch.randperm(len(rows), generator=random).split(64):
                x = to_tensor(records.images[rows[chosen]], device)
                x = deform(x, torch.rand(2, len(x), generator=random) * 2 - 1)
                loss = F.cross_entropy(classifier(x), torch.from_numpy(records.labels[rows[chosen]]).to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    classifier.eval()
    rows = records.rows("test")
    digits = classify(classifier, to_tensor(records.images[rows], device)).cpu()
    return classifier, (digits == torch.from_numpy(records.labels[rows])).float().mean().item()


@torch.no_grad()
def classify(classifier, x):
    """Pictures (N, 3, S, S) -> which digit each shows, (N,)."""
    x = F.interpolate(x, (32, 32), mode="area") if x.shape[2] != 32 else x
    return torch.cat([classifier(part).argmax(1) for part in x.split(256)])


def deform(x, numbers, slant=0.3, width=0.25):
    """Digits (N, 3, S, S) slanted and stretched: a shear of up to `slant`, width by up to `width`, in each direction.

    numbers: (2, N) in [-1, 1], of slant and width. What comes in is black.
    """
    return shear(x, numbers[0].to(x) * slant, numbers[1].to(x) * width)


def shear(x, lean, wide=0.0):
    """Digits (N, 3, S, S) with lean (N,) added to the column per row, made wider by the share `wide`; black outside."""
    matrix = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).to(x).repeat(len(x), 1, 1)
    matrix[:, 0, 0], matrix[:, 0, 1] = 1 / (1 + torch.as_tensor(wide)), lean
    return F.grid_sample(x + 1, F.affine_grid(matrix, x.shape, align_corners=False), align_corners=False) - 1


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
            centres = torch.stack([points[nearest == i].mean(0) if (nearest == i).any() else centres[i]
                                   for i in range(count)])  # fmt: skip
        error = (points - centres[nearest]).square().sum().item()
        if error < best:
            best, kept = error, nearest
    return kept


def purity(digits, categories, count):
    """How well categories mean digits: (share of pictures that show their category's majority digit, the majorities).

    digits, categories: (N,) each, count: how many categories there are.
    """
    table = torch.zeros(count, 10, dtype=torch.long)
    table.index_put_((categories.cpu(), digits.cpu()), torch.ones(len(digits), dtype=torch.long), accumulate=True)
    return table.max(1).values.sum().item() / len(digits), table.argmax(1).tolist()


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
