"""The networks of deep_makeover/: a face in, the same face made over; and the judge that they learn from.

After the Deep Makeover document (two resnets that start near the identity); the compact pair is made for a CPU.
Pictures are (N, 3, H, W) in [-1, 1], 100 high and 80 wide unless said otherwise; any size works.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

ENCODER = (24, 48, 96, 96)  # channels after each pooling; the document pools twice


class ResidualBlock(nn.Module):
    """The document's: a 1x1 projection where the channels change, one batch norm, then two ReLU and convolution, each
    with a bypass of its own.
    """

    def __init__(self, inputs, outputs, kernel=3):
        super().__init__()
        self.project = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.norm = nn.BatchNorm2d(outputs)
        self.residual = nn.ModuleList(nn.Conv2d(outputs, outputs, kernel, padding=kernel // 2) for _ in range(2))

    def forward(self, x):
        x = self.norm(self.project(x))
        for convolution in self.residual:
            x = x + convolution(F.relu(x))
        return x


def residual_blocks(inputs, *outputs):
    """Blocks one after another."""
    return [ResidualBlock(before, after) for before, after in zip((inputs, *outputs), outputs, strict=False)]


def pad_to(x, multiple):
    """Repeat the right and lower edges of x until both sides are multiples."""
    return F.pad(x, (0, -x.shape[3] % multiple, 0, -x.shape[2] % multiple), mode="replicate")


class Generator(nn.Module):
    """The document's generator, 0.594 million parameters. Map sizes for 100 x 80 and two poolings."""

    def __init__(self, poolings=2):
        super().__init__()
        layers, channels = [], 3
        for width in ENCODER[:poolings]:
            layers += [*residual_blocks(channels, width), nn.AvgPool2d(2)]  # (24, 50, 40), (48, 25, 20)
            channels = width
        for width in (*[96] * (poolings - 1), 64):
            layers += [*residual_blocks(channels, width, width), nn.Upsample(scale_factor=2)]
            channels = width  # (96, 50, 40), (64, 100, 80)
        layers += [*residual_blocks(channels, 48), ResidualBlock(48, 48, 1), nn.Conv2d(48, 3, 1)]
        self.layers = nn.Sequential(*layers)
        self.multiple = 2**poolings

    def forward(self, x):  # (N, 3, H, W)
        made = self.layers(pad_to(x, self.multiple))[:, :, : x.shape[2], : x.shape[3]]
        return 1.1 * (2 * made.sigmoid() - 1)  # the sigmoid stretched to a range of 1.1, here in [-1, 1]


class Discriminator(nn.Module):
    """The document's, also a resnet: 0.836 million parameters. One logit a picture, or more with outputs."""

    def __init__(self, outputs=1):
        super().__init__()
        layers, channels = [], 3
        for width in (32, 48, 96, 128):  # 50 x 40, 25 x 20, 12 x 10, 6 x 5
            layers += [*residual_blocks(channels, width), nn.AvgPool2d(2)]
            channels = width
        self.layers = nn.Sequential(*layers, ResidualBlock(128, 128), nn.Conv2d(128, outputs, 1))

    def forward(self, x):  # (N, 3, H, W) -> (N, outputs)
        return self.layers(x).mean((2, 3))


def initialise(net):
    """The document's first weights: what is residual near zero, the rest near the identity, biases zero."""
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Conv2d):
            height, width = layer.kernel_size
            limit = 0.1 / layer.weight.numel()
            nn.init.uniform_(layer.weight, -limit, limit)
            nn.init.zeros_(layer.bias)
            if ".residual" not in name:
                same = torch.arange(min(layer.weight.shape[:2]))
                layer.weight.data[same, same, height // 2, width // 2] += 1


def enlarge(x):
    """Twice the size, smoothly: a network that may set pixel by pixel deceives its judge with checkerboards."""
    return F.interpolate(x, scale_factor=2, mode="bilinear")


class PlainBlock(nn.Module):
    """Two convolutions beside a bypass, without norm; the second starts at zero."""

    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x):
        return x + self.second(F.leaky_relu(self.first(F.leaky_relu(x, 0.2)), 0.2))


class CompactGenerator(nn.Module):
    """A small U-net that draws what to add to the picture; it starts as the exact identity.

    Two fifths of its arithmetic are done at an eighth of the picture's side, where a cell sees the whole face. width:
    channels at half the size. Map sizes, at a width of 16, for 104 x 80, to which 100 x 80 is padded.
    """

    def __init__(self, width=16):
        super().__init__()
        w, w2, w3 = width, width * 5 // 2, width * 6
        self.stem = nn.Conv2d(12, w, 3, padding=1)  # (16, 52, 40)
        self.down = nn.Conv2d(w, w2, 3, 2, 1)  # (40, 26, 20)
        self.fine = PlainBlock(w2)
        self.deeper = nn.Conv2d(w2, w3, 3, 2, 1)  # (96, 13, 10)
        self.coarse = nn.Sequential(PlainBlock(w3), PlainBlock(w3))
        self.back = nn.Conv2d(w3, w2, 1)
        self.refine = PlainBlock(w2)
        self.up = nn.Conv2d(w2, w, 3, padding=1)  # enlarged to (16, 52, 40)
        self.last = PlainBlock(w)
        self.skin = nn.Conv2d(3, w // 2, 3, padding=1)  # (8, 104, 80)
        self.out = nn.Conv2d(w, w // 2, 3, padding=1)  # enlarged to (8, 104, 80)
        self.finest = PlainBlock(w // 2)
        self.draw = nn.Conv2d(w // 2, 3, 3, padding=1)  # (3, 104, 80)
        nn.init.zeros_(self.draw.weight)
        nn.init.zeros_(self.draw.bias)

    def forward(self, x):  # (N, 3, H, W)
        stem = self.stem(F.pixel_unshuffle(pad_to(x, 8), 2))
        fine = self.fine(self.down(F.leaky_relu(stem, 0.2)))
        coarse = self.back(self.coarse(self.deeper(F.leaky_relu(fine, 0.2))))
        fine = self.refine(fine + enlarge(coarse))
        half = self.last(stem + enlarge(self.up(F.leaky_relu(fine, 0.2))))
        whole = self.finest(self.skin(pad_to(x, 8)) + enlarge(self.out(F.leaky_relu(half, 0.2))))
        change = self.draw(F.leaky_relu(whole, 0.2))
        return x + change[:, :, : x.shape[2], : x.shape[3]]


class CompactDiscriminator(nn.Module):
    """Strided convolutions without norm; (N, 3, H, W) -> (N, outputs) logits, the mean over the last map."""

    def __init__(self, outputs=1, width=16):
        super().__init__()
        layers, channels = [], 3
        for maps in (width * 3 // 2, width * 3, width * 6, width * 10):  # 50 x 40, 25 x 20, 12 x 10, 6 x 5
            layers += [nn.Conv2d(channels, maps, 4, 2, 1), nn.LeakyReLU(0.2)]
            channels = maps
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(channels, outputs, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x).mean((2, 3))


def make_networks(network, poolings, init, outputs, width=16):
    """Generator and discriminator of a kind, "document" or "compact".

    init: "residual" or "default", document only; width: the generator's channels at half the size, compact only.
    """
    if network == "compact":
        return CompactGenerator(width), CompactDiscriminator(outputs, width)
    generator, discriminator = Generator(poolings), Discriminator(outputs)
    if init == "residual":
        initialise(generator)
        initialise(discriminator)
    return generator, discriminator


def critic_loss(d_real, d_fake):
    """The critic's: how much higher it rates generated pictures than real ones (arXiv 1701.07875, algorithm 1)."""
    return d_fake.mean() - d_real.mean()


def please_critic(d_fake):
    """The generator's against a critic: minus what it rates generated pictures."""
    return -d_fake.mean()


def pixel_loss(x_fake, x, weights=1):
    """Mean absolute difference of two batches in [-1, 1], each shrunk to a quarter, on the scale of [0, 1].

    weights: what each pixel of the quarter counts. A person is known by the face; another's hair has to be drawn anew.
    """
    return (weights * (F.avg_pool2d(x_fake, 4) - F.avg_pool2d(x, 4)).abs()).mean() / 2


def temperature(step, half_life):
    """The annealing temperature: 1 at first, halved every half_life steps, however fast the machine is."""
    return 0.5 ** ((step - 1) / half_life)


def truncated_noise(shape, device="cpu"):
    """Normal noise, cut off at twice its spread of 1: what uniform numbers are by the normal distribution's inverse."""
    most = math.erf(math.sqrt(2))
    return torch.empty(shape, device=device).uniform_(-most, most).erfinv_().mul_(math.sqrt(2)).clamp_(-2, 2)
