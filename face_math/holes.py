"""Holes in pictures: where they are, and how what fills them is blended with what surrounds them.

Pictures are (N, 3, S, S); a hole is (S, S) bool, a mask is 1 where a picture is known.
"""

from functools import partial

import numpy as np
import torch

MASKS = ("center", "left", "random", "full")
PULL = 0.03  # of a filler's guess on the colours of what it fills a hole with


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


def random_holes(count, size, device="cpu"):
    """Masks (count, 1, S, S) to train with: random pixels, a half, or a rectangle of an eighth to 5/8 of each side."""
    kind, a, b, c, d = torch.rand(5, count, 1, 1, device=device)
    line = torch.arange(size, device=device)
    pixels = torch.rand(count, size, size, device=device) > a * 0.8
    half = (line < size // 2) == (a < 0.5)  # (count, 1, S)
    half = torch.where(b < 0.5, half.mT, half)
    inside = []
    for length, place in ((a, c), (b, d)):
        side = ((1 + 4 * length) / 8 * size).round()
        start = (place * (size - side + 1)).floor()
        inside.append((line >= start) & (line < start + side))
    rectangle = ~(inside[0].mT & inside[1])
    masks = torch.where(kind < 0.15, pixels, torch.where(kind < 0.3, half, rectangle))
    return masks[:, None].float()


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
