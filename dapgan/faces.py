"""What can be said of faces without a network: components of their middle and of the whole, attributes read from both.

Pictures x are (N, 3, S, S) in [-1, 1] at their place in CelebA's geometry.
"""

import torch
import torch.nn.functional as F

from common.celeba import attribute_indices

MIDDLE, WIDTH = 0.6, 0.17  # of the face in the picture: its height, and the deviation of the weights around it
COARSE = 8  # a network's maps are looked at no finer than this
SIDE = 32  # pictures are looked at as large as this, enough for a smile
LEARNED = 2000  # faces from which is learned how a latent and what it shows go together
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


def changed(x, drawn, made, weights=1):
    """Photos x (N, 3, S, S) with what is otherwise in a generator's pictures made than in those drawn of their latents.

    What a photo has and its latent has not, its detail and much of the person, stays. drawn, made: (N, 3, s, s), of any
    size; weights: what is taken of the change, (S, S).
    """
    return (x + weights * resized(made - drawn, x.shape[2])).clamp(-1, 1)


def shuffled(x, seed):
    """The numbers of pictures x in a random order, where they are."""
    return torch.randperm(len(x), generator=torch.Generator(x.device).manual_seed(seed), device=x.device)


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


def middle_weights(side, device):
    """(side, side): how much a place of a picture, or of what a network makes of it, counts."""
    place = (torch.arange(side, device=device) + 0.5) / side
    down, across = (torch.exp(-(((place - middle) / WIDTH) ** 2) / 2) for middle in (MIDDLE, 0.5))
    return down[:, None] * across


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
        x, weight = resized(x, SIDE), middle_weights(SIDE, x.device)
        share = weight / weight.sum()
        x = (x + x.flip(3)) / 2
        x = x - (x * share).sum((2, 3), keepdim=True)  # of each colour, so that the light's does not count
        contrast = (x.square() * share).sum((2, 3), keepdim=True).mean(1, keepdim=True).sqrt()
        return (x / contrast.clamp(min=1e-3) * weight)[..., : SIDE // 2].flatten(1)

    def features(self, x):
        return chunks(lambda part: (self.look(part) - self.mean) @ self.axes / self.deviation, x)


class SeenMiddle(FaceMiddle):
    """What a GAN's discriminator sees in the middle of a face: the principal components of its maps there.

    It has learned without any label what faces are made of, and classes that pixels hardly tell apart are told by it
    from a few examples (Radford et al., arXiv 1511.06434, section 5). maps(x): of pictures as large as those of x, a
    list of (N, C, h, w).
    """

    def __init__(self, x, maps, components=200, trust=1.0):
        self.maps, self.size = maps, x.shape[2]
        self.spread = [part.std((0, 2, 3), keepdim=True) + 1e-4 for part in maps(x[:LEARNED])]
        super().__init__(x, components, trust)

    def look(self, x):
        """(N, 3, S, S) -> (N, D): the left half of weighted maps, the mean of those of face and mirror image."""
        x, seen = resized(x, self.size), []
        for maps, mirrored, spread in zip(self.maps(x), self.maps(x.flip(3)), self.spread, strict=True):
            maps = (maps + mirrored) / 2 / spread
            maps = resized(maps, min(maps.shape[2], COARSE))
            maps = maps * middle_weights(maps.shape[2], x.device) / maps[0].numel() ** 0.5  # no size counts for more
            seen.append(maps[..., : maps.shape[3] // 2].flatten(1))
        return torch.cat(seen, 1)


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


def restored(kind, numbers, device):
    """A FaceMiddle or LinearFaces of which vars() gave these numbers."""
    found = kind.__new__(kind)
    vars(found).update({name: x.float().to(device) for name, x in numbers.items()})
    return found


class AttributeReader:
    """Attributes read by least squares from FaceMiddle's features and the components of the whole picture.

    x (N, 3, S, S), attributes (N, 40) of 0 and 1: of annotated faces, which middle and linear were fitted on. read(x):
    (M, names), above 0 where it is there.
    """

    def __init__(self, x, attributes, middle, linear, names=READ):
        self.names, self.middle, self.linear = list(names), middle, linear
        wanted = torch.as_tensor(attributes[:, attribute_indices(self.names)] > 0, device=x.device)
        inputs = self.inputs(x)
        penalty = 1e-2 * len(x) * torch.eye(inputs.shape[1], device=x.device)
        weights = []
        for there in wanted.T:  # weighted so that a rare attribute is not read as absent because it is rare
            often = there.float().mean()
            balance = torch.where(there, 0.5 / often.clamp(min=1e-3), 0.5 / (1 - often).clamp(min=1e-3))
            balanced_inputs = balance[:, None] * inputs
            squares, product = inputs.T @ balanced_inputs, balanced_inputs.T @ (2 * there.float() - 1)
            weights.append(torch.linalg.solve(squares + penalty, product))
        self.weights = torch.stack(weights, 1)

    @classmethod
    def restore(cls, names, weights, middle, linear):
        """A reader that was fitted before."""
        reader = cls.__new__(cls)
        reader.names, reader.weights, reader.middle, reader.linear = list(names), weights, middle, linear
        return reader

    def inputs(self, x):
        whole = chunks(self.linear.encode, x)
        return torch.cat([self.middle.features(x), whole, whole.new_ones(len(x), 1)], 1)

    def read(self, x):
        return self.inputs(x) @ self.weights

    def accuracy(self, x, attributes):
        """name -> mean of the two hit rates on annotated faces x."""
        truth = torch.as_tensor(attributes[:, attribute_indices(self.names)] > 0, device=x.device)
        columns = zip(self.names, self.read(x).T, truth.T, strict=True)
        return {name: balanced(score, there) for name, score, there in columns if there.any() and not there.all()}

    def varied(self, x, sources):
        """name -> (share of pictures x where it is read otherwise than in its source, deviation of the change)."""
        after, before = self.read(x), self.read(sources)
        flips = ((after > 0) != (before > 0)).float().mean(0).tolist()
        changes = (after - before).square().mean(0).sqrt().tolist()
        return dict(zip(self.names, zip(flips, changes, strict=True), strict=True))
