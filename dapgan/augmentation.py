"""Varied pictures from a few: a face's latent is moved, and what the generator then draws otherwise is added to it.

The purpose of the DAPGAN document. Pictures x are (N, 3, S, S) in [-1, 1] at their place in CelebA's geometry; a latent
is (N, L). The networks come in as functions: encode(x) -> latent, generate(latent) -> x, constrain(latent) -> a latent
that may be drawn. What else is known of faces comes from pictures without labels.
"""

from collections import Counter
from types import SimpleNamespace

import torch
import torch.nn.functional as F

from common.celeba import attribute_indices

MIDDLE, WIDTH = 0.6, 0.17  # of the face in the picture: its height, and the deviation of the weights around it
SIDE = 32                  # pictures are looked at as large as this, enough for a smile
LEARNED = 2000              # faces from which is learned how a latent and what it shows go together
TRIES = 10                 # pictures made for each one wanted before the gates are said to be too strict
READ = ["Smiling", "Male", "Young", "Eyeglasses", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Bangs"]


def chunks(function, x, size=64):
    """function(x), a part at a time, without gradients."""
    with torch.no_grad():
        return torch.cat([function(part) for part in x.split(size)])


def resized(x, side):
    """Pictures (N, 3, S, S) at another side; themselves where they have it."""
    if x.shape[2] == side:
        return x
    return F.interpolate(x, (side, side), mode="bilinear", align_corners=False, antialias=True)


def principal_components(x, count):
    """Of x (N, D): mean (D,), first principal components (D, count), variances along them, and that of all others.

    By randomised SVD (arXiv 0909.4061), always with the same random numbers.
    """
    mean = x.mean(0)
    centred, count = x - mean, min(count, x.shape[1], len(x) - 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, values, vectors = torch.svd_lowrank(centred, q=min(count + 20, *x.shape), niter=4)
    variance = values[:count].square() / len(x)
    rest = (centred.square().sum() / len(x) - variance.sum()) / max(1, x.shape[1] - count)
    return mean, vectors[:, :count], variance.clamp(min=1e-8), rest.clamp(min=1e-8)


class FaceMiddle:
    """What is in the middle of a face, apart from its light: the principal components of unlabelled faces x there.

    A face and its mirror image are the same, background and hair hardly count. features(x): (N, K), each of variance 1
    over the unlabelled faces. gain (K,): how much a component is trusted, less where faces hardly vary.
    """

    def __init__(self, x, components=48, trust=0.1):
        self.mean, self.axes, variance, _ = principal_components(chunks(self.look, x), components)
        self.deviation = variance.sqrt()
        self.gain = variance / (variance + trust * variance[0])

    def look(self, x):
        """(N, 3, S, S) -> (N, D): weighted pixels of the left half of what face and mirror image have in common."""
        x = resized(x, SIDE)
        place = (torch.arange(SIDE, device=x.device) + 0.5) / SIDE
        down, across = (torch.exp(-(((place - middle) / WIDTH) ** 2) / 2) for middle in (MIDDLE, 0.5))
        weight = down[:, None] * across
        share = weight / weight.sum()
        x = (x + x.flip(3)) / 2
        x = x - (x * share).sum((2, 3), keepdim=True)  # of each colour, so that the light's does not count
        contrast = (x.square() * share).sum((2, 3), keepdim=True).mean(1, keepdim=True).sqrt()
        return (x / contrast.clamp(min=1e-3) * weight)[..., : SIDE // 2].flatten(1)

    def features(self, x):
        return chunks(lambda part: (self.look(part) - self.mean) @ self.axes / self.deviation, x)


class LinearFaces:
    """Faces x as a Gaussian with 64 principal components: a generator to compare with, and a measure of oddness.

    encode: (N, 3, S, S) -> (N, 64), generate: back. oddness: minus the log of the density, up to a constant, of
    pictures as large as SIDE (probabilistic PCA, Tipping and Bishop 1999).
    """

    def __init__(self, x, components=64):
        x = resized(x, SIDE)
        self.mean, self.axes, variance, self.rest = principal_components(x.flatten(1), components)
        self.deviation = variance.sqrt()

    def encode(self, x):
        return (resized(x, SIDE).flatten(1) - self.mean) @ self.axes / self.deviation

    def generate(self, z):
        return ((z * self.deviation) @ self.axes.T + self.mean).view(-1, 3, SIDE, SIDE)

    def oddness(self, x):
        flat = resized(x, SIDE).flatten(1) - self.mean
        along = flat @ self.axes
        outside = flat.square().sum(1) - along.square().sum(1)
        return ((along / self.deviation).square().sum(1) + outside / self.rest) / 2


def balanced(score, y):
    """Mean of the share above 0 of those that should be (y) and of the share not above 0 of the others."""
    return ((score > 0)[y].float().mean() + (score <= 0)[~y].float().mean()).item() / 2


def share_below(values, reference):
    """(N,) in [0, 1]: the share of reference (M,) that is smaller than each of values (N,)."""
    return torch.searchsorted(reference.sort().values, values.contiguous()) / len(reference)


def change(x, z, z_new, generate):
    """What moving the latent from z to z_new changes in the generator's picture, done to the photo x.

    What the photo has and the latent has not, its detail and much of the person, stays.
    """
    with torch.no_grad():
        return (x + resized(generate(z_new) - generate(z), x.shape[2])).clamp(-1, 1)


# One person's pictures


class Unlabelled:
    """What is to be known of unlabelled faces x before a person's pictures are varied: worked out once for all people.

    root (L, L): a square root of the covariance of their latents; normal numbers times it deviate as these do. looks
    (N, K): directions of FaceMiddle's features, by whose cosine faces are compared; odd (N,): by LinearFaces.
    """

    def __init__(self, x, encode):
        self.middle, self.linear = FaceMiddle(x), LinearFaces(x)
        latents = chunks(encode, x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:LEARNED]])
        values, vectors = torch.linalg.eigh(torch.cov(latents.T, correction=0))
        self.root = vectors * values.clamp(min=0).sqrt()
        self.looks, self.odd = self.look(x), chunks(self.linear.oddness, x)

    def look(self, x):
        return F.normalize(self.middle.features(x) * self.middle.gain.sqrt(), dim=1)


def augment_person(x, faces, encode, generate, constrain, count, strength=0.35, min_identity=0.95, min_quality=0.01,
                   seed=0):  # fmt: skip
    """Vary a few pictures x (N, 3, S, S) of one person, or of one class, into `count` more.

    faces: Unlabelled, of other faces. Each picture made is one of x, every other time mirrored, changed by a random
    step in the latent: `strength` times what latents of unlabelled faces deviate from their mean, along what they
    deviate together. Kept if both gates agree: identity, the share of unlabelled faces that are less like the picture
    of x that is most alike; quality, the share of unlabelled faces that are odder. 0 for a gate turns it off.

    Returns pictures (count or, after TRIES for each, fewer), rows (a dict each: source, an index of x; mirrored;
    latent, step (L,) tensors; identity, quality), rejected (reason -> how many).
    """
    random = torch.Generator().manual_seed(seed)
    both = torch.cat([x, x.flip(3)])
    z, own = chunks(encode, both), faces.look(x)
    strangers = (faces.looks @ own.T).max(1).values
    pictures, rows, rejected = [], [], Counter()
    for begin in range(0, TRIES * count, 64):
        number = begin + torch.arange(64)
        source = number % len(x) + len(x) * (number // len(x) % 2)  # all of x, all of x mirrored, all of x ...
        noise = torch.randn(64, len(faces.root), generator=random).to(z)
        z_new = constrain(z[source] + strength * noise @ faces.root.T)
        made = change(both[source], z[source], z_new, generate)
        identity = share_below((faces.look(made) @ own.T).max(1).values, strangers)
        quality = 1 - share_below(faces.linear.oddness(made), faces.odd)
        for i in range(64):
            if len(rows) == count:
                return SimpleNamespace(pictures=torch.stack(pictures), rows=rows, rejected=rejected)
            if identity[i] < min_identity:
                rejected["another person"] += 1
            elif quality[i] < min_quality:
                rejected["not like a face"] += 1
            else:
                pictures.append(made[i])
                rows.append(dict(source=source[i].item() % len(x), mirrored=source[i].item() >= len(x),
                                 latent=z_new[i], step=(z_new - z[source])[i], identity=identity[i].item(),
                                 quality=quality[i].item()))  # fmt: skip
    return SimpleNamespace(pictures=torch.stack(pictures) if rows else x[:0], rows=rows, rejected=rejected)


# Pictures of two classes


class ClassAxis:
    """What tells two classes of faces apart: linear discriminant analysis in FaceMiddle's features, (N, K) of each.

    The covariance is that of unlabelled faces, so that the examples have only the two means to say. score(features)
    (N,): above 0 for the first class; its deviation over unlabelled faces is about 1.
    """

    def __init__(self, middle, with_it, without):
        with_it, without = with_it.mean(0), without.mean(0)
        self.centre = (with_it + without) / 2
        self.axis = F.normalize((with_it - without) * middle.gain, dim=0)

    def score(self, features):
        return (features - self.centre) @ self.axis


def confident(score, share=0.2):
    """Rows of the highest and of the lowest of scores (N,): each `share` of them, at least one."""
    count = max(1, round(share * len(score)))
    order = score.argsort()
    return order[-count:], order[:count]


class Pool:
    """Unlabelled faces x and what counterfactuals need of them, worked out once for any number of class axes.

    middle, features: FaceMiddle and its features (N, K) of all of x. Of `count` random ones of x: chosen, their rows;
    x, z, drawn: the pictures, latents and what the generator makes of these.
    """

    def __init__(self, x, encode, generate, count=200, seed=0):
        self.middle, self.generate = FaceMiddle(x), generate
        self.features = self.middle.features(x)
        # Which latents go with which features in the generator's own pictures.
        some = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:LEARNED]
        latents = chunks(encode, x[some])
        drawn = chunks(generate, latents)
        features = self.middle.features(drawn)
        self.link = (features - features.mean(0)).T @ (latents - latents.mean(0)) / len(some)
        self.spread = torch.cov(features.T)
        self.chosen, self.x = some[:count], x[some[:count]]
        self.z, self.drawn = latents[:count], drawn[:count]

    def direction(self, axis):
        """(L,): how the latent changes where the score of a ClassAxis grows by 1, by least squares."""
        return axis.axis @ self.link / (axis.axis @ self.spread @ axis.axis)


def counterfactuals(pool, axis, constrain, near=0.5, far=1.5, seed=0):
    """Each face of the pool twice, on either side of a ClassAxis and otherwise the same.

    Its score is brought to between near and far on each side. Kept if the score, read in the picture that came out of
    it, is at least near / 2 on that side. Returns pictures (M, 3, S, S), labels (M,) bool, rows (a dict each: source,
    an index of the pool; latent, step; score), rejected (reason -> how many).
    """
    random = torch.Generator().manual_seed(seed)
    before, direction = axis.score(pool.features[pool.chosen]), pool.direction(axis)

    def move(steps):
        """The first faces of the pool, as many as there are steps along the axis: pictures, latents, scores."""
        count = len(steps)
        z_new = constrain(pool.z[:count] + steps[:, None] * direction)
        made = chunks(pool.generate, z_new) - pool.drawn[:count]
        made = (pool.x[:count] + resized(made, pool.x.shape[2])).clamp(-1, 1)
        return made, z_new, axis.score(pool.middle.features(made))

    # A latent knows only a part of the features, and what comes of a step falls short by as much: measured, made good.
    reach = (move(torch.ones_like(before[:64]))[2] - before[:64]).mean().clamp(min=0.2)
    pictures, labels, rows, rejected = [], [], [], Counter()
    for side in (1, -1):
        target = side * (near + (far - near) * torch.rand(len(before), generator=random).to(before))
        made, z_new, score = move((target - before) / reach)
        keep = side * score >= near / 2
        rejected["on the wrong side"] += int((~keep).sum())
        pictures.append(made[keep])
        labels.append(torch.full((int(keep.sum()),), side > 0))
        rows += [dict(source=i, latent=z_new[i], step=z_new[i] - pool.z[i], score=score[i].item())
                 for i in keep.nonzero()[:, 0].tolist()]  # fmt: skip
    return SimpleNamespace(pictures=torch.cat(pictures), labels=torch.cat(labels), rows=rows, rejected=rejected,
                           reach=reach.item())  # fmt: skip


# What has varied


class AttributeReader:
    """Attributes read by least squares from FaceMiddle's features and the components of the whole picture.

    x (N, 3, S, S), attributes (N, 40) of 0 and 1: of annotated faces. read(x): (M, names), above 0 where it is there.
    """

    def __init__(self, x, attributes, names=READ):
        self.names = list(names)
        self.middle, self.linear = FaceMiddle(x), LinearFaces(x)
        wanted = torch.as_tensor(attributes[:, attribute_indices(self.names)]).to(x) > 0
        inputs = self.inputs(x)
        penalty = 1e-2 * len(x) * torch.eye(inputs.shape[1]).to(x)
        # Weighted so that a rare attribute is not read as absent because it is rare.
        self.weights = []
        for there in wanted.T:
            balance = torch.where(there, 0.5 / there.float().mean().clamp(min=1e-3),
                                  0.5 / (~there).float().mean().clamp(min=1e-3))[:, None]  # fmt: skip
            self.weights.append(torch.linalg.solve(inputs.T @ (balance * inputs) + penalty,
                                                   (balance * inputs).T @ (2 * there.float() - 1)))  # fmt: skip
        self.weights = torch.stack(self.weights, 1)

    def inputs(self, x):
        whole = chunks(self.linear.encode, x)
        return torch.cat([self.middle.features(x), whole, whole.new_ones(len(x), 1)], 1)

    def read(self, x):
        return self.inputs(x) @ self.weights

    def accuracy(self, x, attributes):
        """name -> mean of the two hit rates on annotated faces x."""
        read, truth = self.read(x), torch.as_tensor(attributes[:, attribute_indices(self.names)] > 0)
        return {name: balanced(read[:, i], truth[:, i]) for i, name in enumerate(self.names)
                if truth[:, i].any() and not truth[:, i].all()}  # fmt: skip

    def varied(self, x, sources):
        """name -> (share of pictures x where it is read otherwise than in its source, deviation of the change)."""
        after, before = self.read(x), self.read(sources)
        flips = ((after > 0) != (before > 0)).float().mean(0)
        return {name: (flips[i].item(), (after - before)[:, i].square().mean().sqrt().item())
                for i, name in enumerate(self.names)}  # fmt: skip
