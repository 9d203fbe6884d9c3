"""Faces moved from one of two classes to the other, known from a few examples of each, and otherwise the same.

Pictures x are (N, 3, S, S) in [-1, 1]; a latent is (N, L). The networks come in as functions: encode(x) -> latent,
generate(latent) -> x, constrain(latent) -> a latent that may be drawn.
"""

import torch
import torch.nn.functional as F

from dapgan.faces import LEARNED, changed, chunks, shuffled


class ClassAxis:
    """What tells two classes of faces apart: linear discriminant analysis in the features (N, K) of a FaceMiddle.

    The covariance is that of unlabelled faces, so that the examples have only the two means to say. score(features)
    (N,): above 0 for the first class; its deviation over unlabelled faces is about 1.
    """

    def __init__(self, middle, with_it, without):
        with_it, without = with_it.mean(0), without.mean(0)
        self.centre = (with_it + without) / 2
        self.axis = F.normalize((with_it - without) * middle.gain, dim=0)

    def score(self, features):
        return (features - self.centre) @ self.axis


def likely(score, count=2000, seed=0):
    """Rows likely to be of either class, by scores (N,) that are high for the first: `count` each, drawn with repeats.

    One's chance is in proportion to exp(score) for the first, to exp(-score) for the second, the score in deviations.
    Where the classes are as common, thousands count that way; of a rare one, the few that stand far out.
    """
    random = torch.Generator(score.device).manual_seed(seed)
    score = score / score.std()
    chances = score.softmax(0), (-score).softmax(0)
    return [torch.multinomial(chance, count, replacement=True, generator=random) for chance in chances]


class Pool:
    """Unlabelled faces x and what counterfactuals need of them, worked out once for any number of class axes.

    middle: a FaceMiddle of them, in whose features the axes are. Of `count` random ones of x: x, the pictures;
    features (N, K), theirs; z, their latents; drawn, what the generator makes of these.
    """

    def __init__(self, x, middle, encode, generate, count=200, seed=0):
        self.middle, self.generate = middle, generate
        # Which latents go with which features in the generator's own pictures.
        some = shuffled(x, seed)[:LEARNED]
        latents = chunks(encode, x[some])
        drawn = chunks(generate, latents)
        features = middle.features(drawn)
        self.link = (features - features.mean(0)).T @ (latents - latents.mean(0)) / len(some)
        self.spread = torch.cov(features.T)
        self.x = x[some[:count]]
        self.z, self.drawn = latents[:count], drawn[:count]
        self.features = middle.features(self.x)

    def direction(self, axis):
        """(L,): how the latent changes where the score of a ClassAxis grows by 1, by least squares."""
        return axis.axis @ self.link / (axis.axis @ self.spread @ axis.axis)


def counterfactuals(pool, axis, constrain, near=0.5, far=1.5, seed=0):
    """Each face of the pool twice, on either side of a ClassAxis and otherwise the same.

    Its score is brought to between near and far on each side. Kept if the score, read in the picture that came out of
    it, is at least near / 2 on that side. Returns pictures (M, 3, S, S) and labels (M,), whether in the first class.
    """
    random = torch.Generator(pool.x.device).manual_seed(seed)
    before, direction = axis.score(pool.features), pool.direction(axis)

    def move(steps):
        """The first faces of the pool, as many as there are steps along the axis: pictures, scores."""
        count = len(steps)
        z_new = constrain(pool.z[:count] + steps[:, None] * direction)
        made = changed(pool.x[:count], pool.drawn[:count], chunks(pool.generate, z_new))
        return made, axis.score(pool.middle.features(made))

    # A latent knows only a part of the features, and what comes of a step falls short by as much: measured, made good.
    reach = (move(torch.ones_like(before[:64]))[1] - before[:64]).mean().clamp(min=0.2)
    kept = []
    for side in (1, -1):
        target = side * (near + (far - near) * torch.rand(len(before), generator=random, device=before.device))
        made, score = move((target - before) / reach)
        kept.append(made[side * score >= near / 2])
    labels = torch.arange(sum(map(len, kept)), device=before.device) < len(kept[0])
    return torch.cat(kept), labels
