"""What a projection and a filled hole have to beat: the mean face, principal components, linear prediction."""

import torch

from common.celeba import subset, to_tensor


def training_faces(records, rows):
    """At most 1 GB of the training faces as (N, 3 S S), in [-1, 1]."""
    rows = subset(rows, max(1, 2**28 // records.images[0].size))
    return to_tensor(records.images[rows]).flatten(1)


def components(x, count):
    """Mean (D,) and the first principal components (count, D) of x (N, D); randomised SVD (arXiv 0909.4061)."""
    mean = x.mean(0)
    _, _, v = torch.svd_lowrank(x - mean, q=min(count + 20, *x.shape), niter=4)
    return mean, v.T[:count]


def linear_reconstructions(records, rows, x, counts=(32, 64, 100)):
    """Name -> pictures like x (N, 3, S, S): the mean face of the training rows, and x by their first components."""
    mean, axes = components(training_faces(records, rows), max(counts))
    flat = x.cpu().flatten(1)
    made = {"mean face": mean.expand(len(x), -1)}
    for count in counts:
        made[f"PCA, {count} numbers"] = mean + (flat - mean) @ axes[:count].T @ axes[:count]
    return {name: pictures.unflatten(1, x.shape[1:]).clamp(-1, 1).to(x.device) for name, pictures in made.items()}


def fill_linearly(records, rows, x, hole, count=300):
    """Pictures x (N, 3, S, S) with the hole (S, S) predicted: by the training rows' mean face, and by ridge regression
    on the first principal components of what surrounds it. Returns name -> pictures."""
    faces, inside, flat = training_faces(records, rows), hole.expand(3, -1, -1).flatten(), x.cpu().flatten(1)
    around, within = faces[:, ~inside], faces[:, inside]
    mean, axes = components(around, count)
    codes = (around - mean) @ axes.T
    penalty = codes.square().mean() * 10 * torch.eye(codes.shape[1])
    weights = torch.linalg.solve(codes.T @ codes + penalty, codes.T @ (within - within.mean(0)))
    made = {"mean face": within.mean(0).expand(len(x), -1),
            "linear prediction": within.mean(0) + (flat[:, ~inside] - mean) @ axes.T @ weights}  # fmt: skip
    pictures = {name: flat.clone() for name in made}
    for name, values in made.items():
        pictures[name][:, inside] = values.clamp(-1, 1)
    return {name: picture.unflatten(1, x.shape[1:]) for name, picture in pictures.items()}
