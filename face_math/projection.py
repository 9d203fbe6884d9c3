"""The search for the z whose generated picture is nearest to a given one, and what fills a hole with it.

After Semantic Image Inpainting with Perceptual and Contextual Losses (Yeh et al., arXiv 1607.07539), for many pictures
at once. Pictures are (N, 3, S, S) in [-1, 1], z (N, z_size) in [-1, 1]; masks (S, S) are 1 where a picture is known.
"""

import math
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

MASKS = ("center", "left", "random", "full")


def contextual_loss(x_hat, x, known, kind):
    """What the known pixels differ by: (N,), summed over pixels and colours; kind "l1" absolute, "l2" squared."""
    difference = (x_hat - x) * known
    return (difference.abs() if kind == "l1" else difference.square()).sum((1, 2, 3))


def perceptual_loss(d_fake):
    """log(1 - D), what the generator is blamed for by logits (N, 1): (N,); near 0 far from real, very negative near."""
    return -F.softplus(d_fake).squeeze(1)


def search(generator, discriminator, x, z, known, n_iter=2000, learning_rate=0.0005, momentum=0.75, lam=0.1,
           contextual="l1", optimizer="nesterov", watch=None):  # fmt: skip
    """Projected gradient descent in z: minimise contextual + lam x perceptual, each picture by itself.

    optimizer: "nesterov", the document's momentum, or "adam" at a rate that falls to 0 along half a cosine; after each
    step z is clipped to [-1, 1], and the clipped z is what goes on and what is kept. The networks are used as they
    are: in eval mode. watch(step, z) sees the best z so far at every step.

    Returns the z (N, z_size) of each picture's lowest loss, and that lowest loss at every step, (n_iter + 1, N).
    """
    z, velocity, square, losses = z.clone(), torch.zeros_like(z), torch.zeros_like(z), []
    best, kept = torch.full((len(z),), math.inf, device=z.device), z.clone()
    for step in range(n_iter + 1):
        z.requires_grad_(step < n_iter)
        x_hat = generator(z)
        loss = contextual_loss(x_hat, x, known, contextual)
        if lam:
            loss = loss + lam * perceptual_loss(discriminator(x_hat))
        better = loss.detach() < best
        best, kept = torch.where(better, loss.detach(), best), torch.where(better[:, None], z.detach(), kept)
        losses.append(best)
        if watch:
            watch(step, kept)
        if step == n_iter:
            break
        (gradient,) = torch.autograd.grad(loss.sum(), z)
        z = z.detach()
        if optimizer == "adam":
            velocity = momentum * velocity + (1 - momentum) * gradient
            square = 0.99 * square + 0.01 * gradient.square()
            rate = learning_rate * (1 + math.cos(math.pi * step / n_iter)) / 2
            direction = velocity / (1 - momentum ** (step + 1)) / ((square / (1 - 0.99 ** (step + 1))).sqrt() + 1e-8)
            z = (z - rate * direction).clamp(-1, 1)
        else:
            before, velocity = velocity, momentum * velocity - learning_rate * gradient
            z = (z - momentum * before + (1 + momentum) * velocity).clamp(-1, 1)
    return kept, torch.stack(losses)


def make_hole(kind, size, random=None):
    """(S, S) bool, True in the hole: the middle half of both sides ("center"), the left half, a random fifth of pixels.

    "full" is all of the picture (which then counts as known too: all of it is replaced by its projection). random: a
    torch.Generator.
    """
    hole = torch.full((size, size), kind == "full")
    if kind == "center":
        hole[size // 4 : -(size // 4), size // 4 : -(size // 4)] = True
    elif kind == "left":
        hole[:, : size // 2] = True
    elif kind == "random":
        hole = torch.rand(size, size, generator=random) < 0.2
    return hole


def random_holes(count, size, random=None):
    """Masks (count, 1, S, S) to train with: random pixels, a half, or a rectangle of an eighth to 5/8 of each side."""
    rows = torch.arange(size)
    masks = []
    for kind, *numbers in torch.rand(count, 5, generator=random).tolist():
        if kind < 0.15:
            mask = (torch.rand(size, size, generator=random) > numbers[0] * 0.8).float()
        elif kind < 0.3:
            half = (rows < size // 2) == (numbers[0] < 0.5)
            mask = (half[:, None] if numbers[1] < 0.5 else half[None]).expand(size, size).float()
        else:
            sides = [round((1 + 4 * number) / 8 * size) for number in numbers[:2]]
            starts = [int(number * (size - side + 1)) for number, side in zip(numbers[2:], sides, strict=True)]
            inside = [(rows >= start) & (rows < start + side) for start, side in zip(starts, sides, strict=True)]
            mask = 1 - (inside[0][:, None] & inside[1][None]).float()
        masks.append(mask)
    return torch.stack(masks)[:, None]


def poisson(faces, pictures, hole, guess=None, pull=0.0):
    """Poisson blending (Perez et al. 2003): faces in the hole of pictures, colours fitted to what surrounds it.

    faces, pictures: (N, 3, S, S) in any range; hole: (S, S) bool. The hole keeps the gradients of the face: what is
    added to it is the harmonic extension of the difference around the hole, free at the picture's border. Pixels
    outside the hole stay as they are; what the hole hides is not read. (cv2.seamlessClone, with the hole as its mask,
    left the colours at its edge as they were.)

    guess: pictures (N, 3, S, S) that the colours in the hole are drawn to as well, screened Poisson blending (Bhat et
    al. 2008), with the weight pull: coarse structure, more than about 1 / sqrt(pull) pixels wide, comes from the guess,
    detail from the face. Gradients flow to faces.
    """
    if hole.all() or not hole.any():
        return torch.where(hole, faces, pictures)
    difference = (pictures - faces) * ~hole
    count = int(hole.sum())
    number = torch.zeros_like(hole, dtype=torch.long)
    number[hole] = torch.arange(count, device=hole.device)
    # For each pixel of the hole: (count of neighbours + pull) added - sum of hole neighbours' = sum of known
    # neighbours' + pull (guess - face).
    system = torch.eye(count, device=hole.device) * pull
    known = pull * (guess - faces)[..., hole] if pull else torch.zeros_like(faces[..., hole])
    for axis, by in ((0, 1), (0, -1), (1, 1), (1, -1)):
        there = torch.ones_like(hole)
        there.select(axis, 0 if by == 1 else -1).zero_()  # its neighbour would lie outside the picture
        rows, moved = number[hole & there], partial(torch.roll, shifts=by)
        system[rows, rows] += 1
        within = hole & there & moved(hole, dims=axis)
        system[number[within], moved(number, dims=axis)[within]] -= 1
        known = known.index_add(2, rows, moved(difference, dims=axis - 2)[..., hole & there])
    added = torch.linalg.solve(system, known.flatten(0, 1).T).T.unflatten(0, known.shape[:2])
    return pictures.masked_scatter(hole, faces[..., hole] + added)


def blend(faces, pictures, hole, guess=None, pull=0.0):
    """`poisson` of uint8 pictures (N, S, S, 3), 64 at a time; hole: (S, S) bool array."""
    hole, made = torch.as_tensor(hole), []
    for start in range(0, len(faces), 64):
        parts = [torch.from_numpy(np.ascontiguousarray(part[start : start + 64])).permute(0, 3, 1, 2).float()
                 for part in (faces, pictures, pictures if guess is None else guess)]  # fmt: skip
        made.append(poisson(*parts[:2], hole, parts[2], pull).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(made)
