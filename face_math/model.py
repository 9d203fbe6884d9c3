"""DCGAN's generator and discriminator, an encoder that turns the generator round (z <-> a face), and a linear guess.

After DCGAN (Radford et al., arXiv 1511.06434) as the Face Math document has it. Pictures are (N, 3, S, S) in [-1, 1]
with S one of 32, 64, 128; z is (N, z_size), uniform in [-1, 1].
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

SIZES = (32, 64, 128)


def channels(image_size, width):
    """Channels of the maps from 4 x 4 to half the picture's size: 8, 4, 2, 1 times width at 64; never more than 8."""
    doublings = int(math.log2(image_size // 4))
    return [width * min(8, 2**i) for i in reversed(range(doublings))]


class Generator(nn.Module):
    """z to a picture: a linear layer to 4 x 4, then stride-2 transposed convolutions, batch norm and ReLU between.

    width: channels of the largest map (64 is the document's: 512, 256, 128, 64). kernel: 5 is the document's; with 4,
    which the stride divides, every pixel is made of equally many weights, so that no checkerboard is built in.
    """

    def __init__(self, z_size=100, image_size=64, width=64, kernel=5):
        super().__init__()
        maps = channels(image_size, width)
        self.fc = nn.Linear(z_size, maps[0] * 16)
        layers = []
        for inputs, outputs in zip(maps, maps[1:] + [3], strict=True):
            up = nn.ConvTranspose2d(inputs, outputs, kernel, 2, padding=(kernel - 1) // 2, output_padding=kernel % 2)
            layers += [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), up]
        self.layers = nn.Sequential(*layers)
        initialise(self)

    def forward(self, z):
        h = self.fc(z).unflatten(1, (-1, 4, 4))  #         (N, 8 width, 4, 4)
        h = h.to(memory_format=torch.channels_last)
        return torch.tanh(self.layers(h))  #               (N, 3, S, S)


class Discriminator(nn.Module):
    """A picture to numbers, the generator's mirror image: stride-2 convolutions, leaky ReLU 0.2, a linear layer.

    outputs: 1, the logit of "real", is the discriminator; the encoders below ask for more. batch_norm: normalise each
    map but the first, as the document does; without it the first weights keep the signal's size (He et al.).
    """

    def __init__(self, image_size=64, width=64, kernel=5, batch_norm=True, outputs=1):
        super().__init__()
        maps = [3, *reversed(channels(image_size, width))]
        layers = []
        for i, (inputs, outs) in enumerate(zip(maps, maps[1:], strict=False)):
            layers += [nn.Conv2d(inputs, outs, kernel, 2, padding=(kernel - 1) // 2)]
            layers += [nn.BatchNorm2d(outs)] if batch_norm and i else []
            layers += [nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(maps[-1] * 16, outputs)
        initialise(self, batch_norm)

    def forward(self, x):
        h = self.layers(x)  #                              (N, 8 width, 4, 4)
        return self.fc(h.flatten(1))  #                    (N, outputs)


class Encoder(Discriminator):
    """A picture to the z that the generator would make it of, squashed into [-1, 1]; the discriminator's layers.

    corrections: so often what is read is drawn, and corrected by how that differs from the picture, to the encoder's
    eyes (after ReStyle, arXiv 2104.02699, but with one encoder for all looks, and a linear layer on the difference).
    """

    def __init__(self, z_size=100, image_size=64, width=64, kernel=5, batch_norm=True, corrections=0):
        super().__init__(image_size, width, kernel, batch_norm, z_size)
        self.corrections = corrections
        self.correct = nn.Linear(self.fc.in_features, z_size, bias=False) if corrections else None
        if corrections:
            nn.init.zeros_(self.correct.weight)

    def forward(self, x, draw=None, known=1):
        """known: 1 where a picture is known, 0 in its hole, (N, 1, S, S) or (S, S).

        draw: the generator; needed for corrections, and without it there are none.
        """
        h = self.layers(x * known).flatten(1)
        raw = self.fc(h).float()
        for _ in range(self.corrections if draw else 0):
            raw = raw + self.correct(h - self.layers(draw(torch.tanh(raw)) * known).flatten(1))
        return torch.tanh(raw)  #                          (N, z_size) in [-1, 1]

    def start_as(self, known):
        """Take the weights of another encoder of this shape, by name; a correction it lacks begins as a part of its fc.

        Moving by three tenths of what it reads otherwise in the picture drawn makes validation faces nearer untrained.
        """
        own = self.state_dict()
        self.load_state_dict(own | {name: known[name] for name in own if name in known or name != "correct.weight"})
        if self.corrections and "correct.weight" not in known:
            self.correct.weight.data.copy_(0.3 * self.fc.weight.data)


class Guess(nn.Module):
    """A first guess at what a hole hides, linear in what surrounds it: where to, roughly, eyes, nose and mouth belong.

    The conditional mean of a Gaussian on the training faces' first `count` principal components (probabilistic PCA,
    Tipping and Bishop 1999), so that one fit serves holes of every shape. Nothing in it is trained. Zeros until `fit`.
    """

    # What the components leave out counts this many times: neighbouring pixels err alike. Of 10, 30, 60 and 100 the one
    # of most decibels in the centre hole of celeba8k's validation faces.
    NOISE = 30

    def __init__(self, image_size, count):
        super().__init__()
        numbers = 3 * image_size**2
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("axes", torch.zeros(count, numbers, dtype=torch.float16))  # half the file
        self.register_buffer("variances", torch.zeros(count))
        self.register_buffer("noise", torch.zeros(()))

    def fit(self, faces):
        """Take mean, components, their variances and what they leave out, from faces (N, 3 S S)."""
        mean, axes = components(faces.cpu(), len(self.axes))
        variances = ((faces.cpu() - mean) @ axes.T).var(0, correction=0)
        left = (faces.cpu() - mean).square().mean() - variances.sum() / len(mean)
        self.mean.copy_(mean)
        self.axes.copy_(axes)
        self.variances.copy_(variances)
        self.noise.copy_(self.NOISE * left.clamp_min(1e-8))

    @torch.no_grad()
    def forward(self, x, hole):
        """Pictures x (N, 3, S, S) with the hole (S, S) bool filled, in [-1, 1]; what it hides is not read."""
        if hole.all():  # nothing is known: the mean face
            return self.mean.view(1, *x.shape[1:]).clamp(-1, 1).expand_as(x)
        hidden, axes = hole.expand(3, -1, -1).flatten(), self.axes.float()
        around, known = axes[:, ~hidden], x.float().flatten(1)[:, ~hidden] - self.mean[~hidden]
        system = around @ around.T + torch.diag(self.noise / self.variances.clamp_min(1e-8))
        codes = torch.linalg.solve(system, around @ known.T).T
        filled = (self.mean + codes @ axes).clamp(-1, 1).unflatten(1, x.shape[1:])
        return torch.where(hole, filled, x)


def components(x, count):
    """Mean (D,) and the first principal components (count, D) of x (N, D); randomised SVD (arXiv 0909.4061)."""
    mean = x.mean(0)
    _, _, v = torch.svd_lowrank(x - mean, q=min(count + 20, *x.shape), niter=4)
    return mean, v.T[:count]


def initialise(network, batch_norm=True):
    """The document's first weights: N(0, 0.02), batch norm's scale N(1, 0.02), biases 0.

    Without batch norm He et al.'s (arXiv 1502.01852) instead, for the leaky ReLU.
    """
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            if batch_norm:
                nn.init.normal_(layer.weight, std=0.02)
            else:
                nn.init.kaiming_normal_(layer.weight, 0.2)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1, 0.02)
            nn.init.zeros_(layer.bias)


def draw_z(count, z_size, random=None, device="cpu"):
    """(count, z_size) uniform in [-1, 1]; random: a torch.Generator of that device."""
    return torch.rand(count, z_size, generator=random, device=device) * 2 - 1


def as_long(z, length):
    """z (N, z_size) made as long as length, a number or (N, 1), and kept in the cube.

    In 100 dimensions hardly anything that is drawn is near the cube's middle: there, where the mean of many faces lies,
    a generator has not been shown what to draw, and what lies far out, as a sum does, glares.
    """
    return (z * length / z.norm(dim=1, keepdim=True).clamp_min(1e-8)).clamp(-1, 1)


def as_long_as_fits(z, length):
    """The mean or sum z (1, z_size) of others that are length () long: halfway to that, or cut to that.

    The mean of dozens is short and its face grey; as long as these are it is a caricature of what they have in common.
    """
    return as_long(z, ((z.norm() + length) / 2).clamp(max=length))


def between(a, b, share):
    """The way from z a (z_size,) to z b, share (n, 1) of it: the straight line, but everywhere as long as its ends."""
    return as_long(torch.lerp(a, b, share), torch.lerp(a.norm(), b.norm(), share))


def prior_distance(z_hat, z, directions):
    """Sliced Wasserstein distance, squared, of encoded to drawn z (N, z_size) along directions (z_size, n).

    Kolouri et al., arXiv 1804.01947: what keeps the encoded faces spread over the whole cube that z is drawn from.
    """
    directions = F.normalize(directions, dim=0)
    return (z_hat @ directions).sort(0).values.sub((z @ directions).sort(0).values).square().mean()


def kl_divergence(mean, log_variance):
    """Of N(mean, exp(log_variance)) from N(0, 1), (N, z_size) both: (N,)."""
    return (mean.square() + log_variance.exp() - log_variance - 1).sum(1) / 2
