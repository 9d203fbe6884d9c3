"""The search for the z whose generated picture is nearest to a given one.

After Semantic Image Inpainting with Perceptual and Contextual Losses (Yeh et al., arXiv 1607.07539), for many pictures
at once. Pictures are (N, 3, S, S) in [-1, 1], z (N, z_size) in [-1, 1]; masks (S, S) are 1 where a picture is known.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from common.celeba import to_tensor
from common.photos import InputError
from face_math.loading import load_photos, load_pictures, plain_names
from face_math.model import draw_z
from face_math.plumbing import in_chunks

# What --search sets for the verbs that search z; complete has further defaults of its own.
SEARCHES = {
    "document": dict(
        start="random", contextual="l1", optimizer="nesterov", lam=0.1, learning_rate=0.0005, momentum=0.75,
        n_iter=2000, vectors="mean",
    ),
    "best": dict(
        start="encoder", contextual="l2", optimizer="adam", lam=0.0, learning_rate=0.05, momentum=0.9,
        n_iter=100, vectors="regression",
    ),
}  # fmt: skip
COMPLETE = {"document": dict(learning_rate=0.01, momentum=0.9, n_iter=1000), "best": dict(start="filler")}


def contextual_loss(x_hat, x, known, kind):
    """What the known pixels differ by: (N,), summed over pixels and colours; kind "l1" absolute, "l2" squared."""
    difference = (x_hat - x) * known
    return (difference.abs() if kind == "l1" else difference.square()).sum((1, 2, 3))


def perceptual_loss(d_fake):
    """log(1 - D), what the generator is blamed for by logits (N, 1): (N,); near 0 far from real, very negative near."""
    return -F.softplus(d_fake).squeeze(1)


def search(
    generator,
    discriminator,
    x,
    z,
    known,
    n_iter=2000,
    learning_rate=0.0005,
    momentum=0.75,
    lam=0.1,
    contextual="l1",
    optimizer="nesterov",
    watch=None,
):
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


def guess_hole(model, x, hole):
    """Pictures x (N, 3, S, S) with the filler's guess in the hole (S, S); with all of it known, or no filler, x."""
    return model.guess(x, hole.to(x.device)) if model.guess and not hole.all() else x


def find_z(args, model, x, hole=None, watch=None):
    """The z of pictures (N, 3, S, S), and its lowest loss at every step (n_iter + 1, N).

    By --restarts searches of which the best is kept for each picture: the first from --start, others from other random
    z, or from near the encoder's. hole: (S, S) bool, what not to look at; a filler's encoder sees its guess there.
    """
    known = torch.ones(x.shape[2:], device=x.device) if hole is None or hole.all() else 1 - hole.to(x.device).float()
    names = ("n_iter", "learning_rate", "momentum", "lam", "contextual", "optimizer")
    how = {name: getattr(args, name) for name in names}
    random = torch.Generator().manual_seed(args.seed)
    if args.start != "random":
        first = model.encode(guess_hole(model, x, hole)) if args.start == "filler" else model.encode(x, known)
    z = losses = None
    for restart in range(args.restarts):
        start = draw_z(len(x), args.z_size, random).to(x.device)
        if args.start != "random":
            start = (first + 0.3 * start * (restart > 0)).clamp(-1, 1)
        found = []
        for part in in_chunks(x):
            seen = watch if restart == part.start == 0 else None
            found.append(search(model.generator, model.discriminator, x[part], start[part], known, **how, watch=seen))
        new_z, new_losses = torch.cat([z for z, _ in found]), torch.cat([losses for _, losses in found], 1)
        if restart:
            better = new_losses[-1] < losses[-1]
            new_z, new_losses = torch.where(better[:, None], new_z, z), torch.where(better, new_losses, losses)
        z, losses = new_z, new_losses
    return z, losses


def read_z(path, z_size):
    """A z file as (N, z_size). InputError: none, of another size, or numbers that are none or beyond [-1, 1]."""
    try:
        z = np.atleast_2d(np.load(path, allow_pickle=False)).astype(np.float32)
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise InputError(f"{path} is no z file: {error}") from None
    if z.ndim != 2 or z.shape[1] != z_size or len(z) == 0:
        raise InputError(f"{path} has shape {z.shape}: expected (N, {z_size})")
    if not (np.abs(z) <= 1.0001).all():
        raise InputError(f"{path}: expected numbers from -1 to 1")
    return torch.from_numpy(z)


def embed(args, model, paths):
    """z (N, z_size) of pictures and z files, in their order, and for each a name and its Place, of a z file None.

    Without paths those of the first --count test faces, which have no places.
    """
    if not paths:
        images, names = load_pictures(args, model.device)
        return find_z(args, model, to_tensor(images, model.device))[0], names, []
    codes, names, places = [], [], []
    photos = [path for path in paths if Path(path).suffix != ".npy"]
    if photos and len(photos) == len(paths):
        images, names, places = load_photos(args, model.device, photos)
        codes = [find_z(args, model, to_tensor(images, model.device))[0]]
    elif photos:  # some of each: one by one, to keep their order
        found = [embed(args, model, [path]) for path in paths]
        codes, names = [z for z, _, _ in found], [name for _, more, _ in found for name in more]
        places = [place for _, _, more in found for place in more]
    else:
        for path in paths:
            codes.append(read_z(path, args.z_size).to(model.device))
            names += [f"{Path(path).stem}_{i}" for i in range(len(codes[-1]))]
        places = [None] * len(names)
    return torch.cat(codes), plain_names([f"{name}.png" for name in names]), places
