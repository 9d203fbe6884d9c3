"""Faces from attributes: the document's six models, and the ones that obey.

After the DeepLearning_FaceGen document and DCGAN (Radford et al., arXiv 1511.06434). Pictures x are (N, 3, height,
width) in [-1, 1]; attributes c are (N, A), 1 for there and 0 for not there, values between and beyond for a degree.
Every generator is called as generator(start, c), start being noise, a cube of noise or a picture; every discriminator
as discriminator(x, c, other_c, ...), one list of logits (N,) for as many requests, and what it reads in the picture.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from common.celeba import ATTRIBUTES

NOISE = 100  # numbers of noise
READ_SIZE = 64  # of the pictures that the predictor reads, whatever the size of those that are generated
FIT_STEPS, FIT_RATE = 8, 0.15  # of `fitted`; these and the next were chosen on validation faces
ENOUGH, BESIDE = 0.9, 3.0
REPEAT = 10  # how often an attribute stands in the input of dcgan3, 4 and 5, so that the picture does not drown it
CUBES = ("dcgan3", "dcgan4", "dcgan5")  # generators that begin from something of a picture's shape
REFINERS = ("dcgan4", "dcgan5")  # those that are fed a picture
MODELS = ("fcgan", "dcgan1", "dcgan2", *CUBES)


def attribute_planes(c, height, width):
    """(N, A) -> (N, A, height, width), each attribute a constant plane: what makes a picture a "cube"."""
    return c[:, :, None, None].expand(-1, -1, height, width)


# ---------------------------------------------------------------------------------------------------------------------
# The document's six


def start_shape(model, height, width):
    """The shape of what a model's generator begins from: NOISE numbers, or a cube of a picture's shape."""
    return (3, height, width) if model in CUBES else (NOISE,)


def joined(start, c, repeat):
    """A generator's input: start flattened, and each attribute `repeat` times behind it."""
    return torch.cat([start.flatten(1), c.repeat_interleave(repeat, 1)], 1)


class FullGenerator(nn.Module):
    """fcgan: noise 100 + attributes -> 128 -> a whole picture, fully connected."""

    def __init__(self, attributes, height=218, width=178):
        super().__init__()
        self.size = height, width
        hidden, last = nn.Linear(NOISE + attributes, 128), nn.Linear(128, 3 * height * width)
        self.layers = nn.Sequential(hidden, nn.LeakyReLU(0.2), last, nn.Sigmoid())

    def forward(self, z, c):
        return self.layers(joined(z, c, 1)).unflatten(1, (3, *self.size)) * 2 - 1


class FullDiscriminator(nn.Module):
    """fcgan: a flattened picture + attributes -> 128 -> 1 logit."""

    def __init__(self, attributes, height=218, width=178):
        super().__init__()
        hidden = nn.Linear(3 * height * width + attributes, 128)
        self.layers = nn.Sequential(hidden, nn.LeakyReLU(0.2), nn.Linear(128, 1))

    def judge(self, x, c):
        """Logits (N,) that x is real and has the attributes c."""
        return self.layers(joined(x, c, 1)).squeeze(1)

    def forward(self, x, *requests):
        return [self.judge(x, c) for c in requests], None


class Generator(nn.Module):
    """dcgan1 to dcgan5: start (flattened) + attributes -> fc to an eighth of the size, three transposed convolutions.

    dcgan1, 2: noise 100 + A numbers; dcgan3, 4, 5: 3 * size * size of a cube or picture + 10 * A.
    """

    def __init__(self, model, attributes, size=32):
        super().__init__()
        self.repeat, self.base = REPEAT if model in CUBES else 1, size // 8
        self.fc = nn.Linear(math.prod(start_shape(model, size, size)) + self.repeat * attributes, 128 * self.base**2)

        layers = []
        for inputs, outputs in ((128, 64), (64, 32), (32, 3)):  # (64, 8, 8), (32, 16, 16), (3, 32, 32)
            up = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
            layers += [nn.BatchNorm2d(inputs), nn.LeakyReLU(0.2), up]
        self.layers = nn.Sequential(*layers, nn.Sigmoid())

    def forward(self, start, c):
        h = self.fc(joined(start, c, self.repeat)).unflatten(1, (128, self.base, self.base))
        return self.layers(h) * 2 - 1


class Discriminator(nn.Module):
    """dcgan1 to dcgan5: 4x4 stride-2 convolutions 32, 64, 128 (and 256 with more than 8 attributes), fc to 1 logit.

    planes: each attribute is a plane beside the picture's three ("cube"); else, in dcgan1, they join at the fc.
    """

    def __init__(self, model, attributes, size=32):
        super().__init__()
        self.planes = model != "dcgan1"
        widths = [32, 64, 128, 256] if attributes > 8 else [32, 64, 128]
        layers, inputs = [], 3 + (attributes if self.planes else 0)
        for width in widths:  # (32, 16, 16), (64, 8, 8), (128, 4, 4), (256, 2, 2)
            layers += [nn.Conv2d(inputs, width, 4, stride=2, padding=1)]
            layers += [nn.BatchNorm2d(width)] if len(layers) > 1 else []  # from the second on
            layers += [nn.LeakyReLU(0.2)]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.fc = nn.Linear(inputs * (size >> len(widths)) ** 2 + (0 if self.planes else attributes), 1)

    def judge(self, x, c):
        """Logits (N,) that x is real and has the attributes c."""
        if self.planes:
            return self.fc(self.layers(torch.cat([x, attribute_planes(c, *x.shape[2:])], 1))).squeeze(1)
        return self.fc(torch.cat([self.layers(x), c], 1)).squeeze(1)

    def forward(self, x, *requests):
        return [self.judge(x, c) for c in requests], None


# ---------------------------------------------------------------------------------------------------------------------
# What obeys: --network conditional


def smooth(h):
    """Maps (N, C, H, W) through the kernel 1 2 1 each way: what is left of a transposed convolution's grid goes."""
    return F.avg_pool2d(F.avg_pool2d(F.pad(h, (1,) * 4, mode="replicate"), 2, 1), 2, 1)


class ConditionalNorm(nn.Module):
    """Batch norm whose scale and shift are linear in the attributes (de Vries et al., arXiv 1707.00683)."""

    def __init__(self, attributes, channels):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale, self.shift = nn.Linear(attributes, channels), nn.Linear(attributes, channels)

    def forward(self, h, c):
        return self.norm(h) * (1 + self.scale(c))[:, :, None, None] + self.shift(c)[:, :, None, None]


class ConditionalGenerator(nn.Module):
    """Noise + attributes -> fc to 4 x 4 x 256, transposed convolutions that halve the channels, conditional norms.

    width: an eighth of the channels it begins with. At 32, 64 x 64 pixels and with 8 attributes 1.1 million parameters
    and 27 million multiplications.
    """

    def __init__(self, attributes, size=64, width=32):
        super().__init__()
        widths = [8 * width >> i for i in range(int(math.log2(size // 4)))]  # 256, 128, 64, 32
        self.fc = nn.Linear(NOISE + attributes, widths[0] * 16)
        self.norms = nn.ModuleList(ConditionalNorm(attributes, channels) for channels in widths)
        ups = [nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in zip(widths, [*widths[1:], 3], strict=True)]
        self.ups = nn.ModuleList(ups)

    def forward(self, z, c):
        c = c * 2 - 1
        h = self.fc(torch.cat([z, c], 1)).unflatten(1, (-1, 4, 4))  # (N, 256, 4, 4)
        for norm, up in zip(self.norms, self.ups, strict=True):
            h = up(F.leaky_relu(norm(h, c), 0.2))  #                  (N, 128, 8, 8) ... (N, 3, 64, 64)
        return torch.tanh(smooth(h))


class Editor(nn.Module):
    """Picture + wanted change of the attributes -> the picture, changed where a mask says so.

    A U-Net that reads the change (new less old attributes) as planes; what it paints is blended in by a mask that it
    draws itself (as in GANimation, Pumarola et al., arXiv 1807.09251), so that doing nothing is easy.
    """

    def __init__(self, attributes, width=32):
        super().__init__()
        w = width

        def normed(layer):
            return nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels), nn.LeakyReLU(0.2))

        self.down1 = normed(nn.Conv2d(3 + attributes, w, 4, 2, 1))
        self.down2 = normed(nn.Conv2d(w, 2 * w, 4, 2, 1))
        self.down3 = normed(nn.Conv2d(2 * w, 4 * w, 4, 2, 1))
        self.middle = normed(nn.Conv2d(4 * w + attributes, 4 * w, 3, padding=1))
        self.up3 = normed(nn.ConvTranspose2d(4 * w, 2 * w, 4, 2, 1))
        self.up2 = normed(nn.ConvTranspose2d(4 * w, w, 4, 2, 1))
        self.up1 = nn.ConvTranspose2d(2 * w, 4, 4, 2, 1)

    def paint(self, x, change):
        """What is painted (N, 3, H, W) in [-1, 1] and the mask (N, 1, H, W) in [0, 1] of where it shows."""
        h1 = self.down1(torch.cat([x, attribute_planes(change, *x.shape[2:])], 1))  # (N, 32, 32, 32)
        h2 = self.down2(h1)  #                                                        (N, 64, 16, 16)
        h3 = self.down3(h2)  #                                                        (N, 128, 8, 8)
        h = h3 + self.middle(torch.cat([h3, attribute_planes(change, *h3.shape[2:])], 1))
        h = self.up2(torch.cat([self.up3(h), h2], 1))  #                              (N, 32, 32, 32)
        h = smooth(self.up1(torch.cat([h, h1], 1)))  #                                (N, 4, 64, 64)
        return torch.tanh(h[:, :3]), torch.sigmoid(h[:, 3:] - 1)

    def forward(self, x, change):
        paint, mask = self.paint(x, change)
        return x + mask * (paint - x)


def tuned(change, requests):
    """A change (N, A) that is wanted as the editor has to be asked for it, with what --run tune has learned.

    requests: (2, A, A), what to ask for beside, for each attribute that goes, and that comes; as much of it as the
    attribute is changed. None: nothing beside. What is wanted is never asked for less than it was.
    """
    if requests is None:
        return change
    gone, come = requests.to(change.device)
    return no_less(change + (-change).clamp(min=0) @ gone + change.clamp(min=0) @ come, change)


def no_less(request, change):
    """A request (N, A) in which nothing that is wanted, change (N, A), is asked for less than it is wanted."""
    more = torch.where(change > 0, torch.maximum(request, change), torch.minimum(request, change))
    return torch.where(change == 0, request, more)


def scaled(logits, means):
    """The predictor's logits (N, A) in units in which faces without and with an attribute have -1 and 1 on average.

    means: (2, A), their mean logits.
    """
    without, there = means
    return (2 * logits - without - there) / (there - without).clamp(min=1e-3)


@torch.no_grad()
def fitted(edit, read, x, c, asked, request):
    """A request (N, A) made to fit each face by itself, so that what is wanted comes, and little else: (N, A).

    edit: faces x (N, 3, H, W) and requests to faces; read: faces to readings (N, A), as of `scaled`; c, asked: the
    attributes as they are and as they are to be; request: what most faces take. A few steps of Adam, by gradients
    through editor and predictor; the loss is the square of what an attribute that turns round falls short of ENOUGH,
    times the degree, of its mean; that of what those that are to stay move; and BESIDE times that of what is asked for
    otherwise. Nothing is asked for less than it is wanted; where nothing turns round, the request stays.
    """
    change, side = asked - c, 1 - 2 * c  # side: from not there to there, or back
    goal, turns, stays = ENOUGH * (2 * asked - 1), change * side > 0, change == 0
    fit = request.clone().requires_grad_()
    optimizer = torch.optim.Adam([fit], betas=(0.8, 0.99))
    before = read(x).clamp(-1, 1)
    for step in range(FIT_STEPS):
        optimizer.param_groups[0]["lr"] = FIT_RATE * (1 - step / FIT_STEPS)
        with torch.enable_grad():
            after = read(edit(x, fit))
            short = ((goal - after) * side * turns).relu()
            moved = (after.clamp(-1, 1) - before) * stays
            loss = short.square() + moved.square() + BESIDE * (fit - request).square()
            (fit.grad,) = torch.autograd.grad(loss.sum(), fit)
        optimizer.step()
        fit.copy_(no_less(fit, change))
    return torch.where(turns.any(1, keepdim=True), fit.detach(), request)


class ConditionalDiscriminator(nn.Module):
    """Convolutions down to 4 x 4, then three readings of the same features: real or not, whether it fits a request, and
    which attributes it shows.

    The fit is a projection discriminator's (Miyato & Koyama, arXiv 1802.05637), so that a second request for the same
    picture costs next to nothing; the reading is the auxiliary classifier of AC-GAN (Odena et al., arXiv 1610.09585).
    """

    def __init__(self, attributes, size=64, width=32):
        super().__init__()
        widths = [3, *(width * min(1 << i, 8) for i in range(int(math.log2(size // 4))))]  # 32, 64, 128, 256
        layers = []
        for inputs, outputs in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.fc = nn.Linear(widths[-1] * 16, 1 + 2 * attributes)

    def judge(self, x, c):
        """Logits (N,) that x is real and has the attributes c."""
        return self(x, c)[0][0]

    def forward(self, x, *requests):
        real, fits, reading = self.fc(self.layers(x)).split([1, *[requests[0].shape[1]] * 2], 1)
        scale = 1 / math.sqrt(fits.shape[1])
        return [real.squeeze(1) + (fits * (c * 2 - 1)).sum(1) * scale for c in requests], reading


def initialise(network, scheme):
    """Draw the weights: "document" N(0, 0.02), biases 0; or "he" (He et al., arXiv 1502.01852). Returns the network.

    With "he", conditional norms begin near plain ones, and the last layer's logits or pixels near 0.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))]
    for layer in layers:
        fan_in = layer.weight[0].numel()
        if isinstance(layer, nn.ConvTranspose2d):  # each output pixel sees a quarter of a stride-2 kernel
            fan_in = layer.weight[:, 0].numel() / 4
        nn.init.normal_(layer.weight, std=0.02 if scheme == "document" else math.sqrt(2 / fan_in))
        nn.init.zeros_(layer.bias)
    if scheme == "he":
        layers[-1].weight.data.mul_(0.3)
        for norm in network.modules():
            if isinstance(norm, ConditionalNorm):
                nn.init.normal_(norm.scale.weight, std=0.05)
                nn.init.normal_(norm.shift.weight, std=0.05)
    return network


# ---------------------------------------------------------------------------------------------------------------------
# Losses, beside those of gan.py


def mismatch_loss(d_mismatch):
    """The document's D_mismatch: cross entropy, on logits (N,), of real faces found to have wrong attributes."""
    return F.softplus(d_mismatch).mean()


def reconstruction_loss(x, x_fed, network):
    """How far refining has led from the picture fed in: squared error (the document's), absolute for the editor."""
    return F.l1_loss(x, x_fed) if network == "conditional" else F.mse_loss(x, x_fed)


def attribute_loss(reading, c):
    """Cross entropy of the logits read, (N, A), and the attributes: summed over these, mean over the pictures."""
    return F.binary_cross_entropy_with_logits(reading, c, reduction="none").sum(1).mean()


# ---------------------------------------------------------------------------------------------------------------------
# What reads a photo


class Predictor(nn.Module):
    """Square face crops (N, 3, 64, 64) in [-1, 1] -> logits (N, 40)."""

    def __init__(self, width=32):
        super().__init__()
        layers, inputs = [], 3
        for outputs in (width, 2 * width, 4 * width, 8 * width):  # 32, 16, 8, 4 pixels
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1)]
            inputs = outputs
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.5), nn.Linear(inputs * 16, len(ATTRIBUTES)))

    def forward(self, x):
        return self.layers(x)
