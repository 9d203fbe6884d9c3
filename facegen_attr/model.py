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

NOISE = 100  # numbers of noise
REPEAT = 10  # how often an attribute stands in the input of dcgan3, 4 and 5, so that the picture does not drown it
CUBES = ("dcgan3", "dcgan4", "dcgan5")  # generators that begin from something of a picture's shape
REFINERS = ("dcgan4", "dcgan5")  # those that are fed a picture
MODELS = ("fcgan", "dcgan1", "dcgan2", *CUBES)
SETS = {
    "1": ["Male"],
    "2": ["Male", "Smiling"],
    "5": ["Black_Hair", "Blond_Hair", "Male", "Smiling", "Young"],
    "8": ["Male", "Smiling", "Black_Hair", "Blond_Hair", "Eyeglasses", "No_Beard", "Wearing_Hat", "Young"],
    "23": """Arched_Eyebrows Bags_Under_Eyes Bangs Big_Lips Big_Nose Black_Hair Blond_Hair Brown_Hair Bushy_Eyebrows
        Eyeglasses Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Narrow_Eyes No_Beard Oval_Face Pointy_Nose
        Smiling Straight_Hair Wavy_Hair Wearing_Hat Young""".split(),
}  # fmt: skip
EXCLUSIVE = [("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Bald"), ("Bald", "Bangs"),
             ("Bald", "Straight_Hair", "Wavy_Hair"), ("Bangs", "Receding_Hairline"), ("No_Beard", "Goatee"),
             ("No_Beard", "5_o_Clock_Shadow"), ("No_Beard", "Mustache"), ("No_Beard", "Sideburns")]  # fmt: skip


def attribute_planes(c, height, width):
    """(N, A) -> (N, A, height, width), each attribute a constant plane: what makes a picture a "cube"."""
    return c[:, :, None, None].expand(-1, -1, height, width)


def mismatched(c, pool, numbers):
    """Wrong attributes for the faces whose right ones are c (N, A): another face's, and never the right ones.

    pool: (M, A), the attributes of the faces to take them from; numbers: (2, N) uniform in [0, 1). Where the other face
    has the same attributes, one of them is turned round.
    """
    which, turned = numbers.to(c.device)
    other = pool[(which * len(pool)).long()]
    turned = F.one_hot((turned * c.shape[1]).long(), c.shape[1]).bool() & (other == c).all(1, keepdim=True)
    return torch.where(turned, 1 - other, other)


def flipped(c, numbers, exclusive):
    """c (N, A) with one attribute turned round; a hair colour that comes takes the place of the one that was there.

    numbers: (N,) uniform in [0, 1); exclusive: (A, A) bool, which attributes end when another begins.
    """
    chosen = F.one_hot((numbers.to(c.device) * c.shape[1]).long(), c.shape[1]).bool()
    begins = chosen & (c == 0)
    ends = (begins[:, :, None] & exclusive.to(c.device)).any(1)
    return torch.where(chosen, 1 - c, torch.where(ends, 0, c))


def exclusions(attributes):
    """(A, A) bool: whether the two attributes contradict each other, as Bald and Bangs do."""
    pairs = [[a != b and any(a in group and b in group for group in EXCLUSIVE) for b in attributes] for a in attributes]
    return torch.tensor(pairs)


def contradictions(attributes):
    """Texts such as "Bald and Bangs" for those of the attributes that no face has together."""
    pairs = exclusions(attributes).triu().nonzero().tolist() if attributes else []
    return [f"{attributes[a]} and {attributes[b]}" for a, b in pairs]


def resampled(attributes, least, size):
    """Rows of attributes (N, A) of 0 and 1, `size` of them, repeated so that no attribute is rare or near universal.

    Iterative proportional fitting: the weights nearest to equal ones with which each attribute is in at least a share
    `least` of the rows, and missing in as many; then systematic sampling, the same at every call. An attribute that no
    row has (or all have) is left alone.
    """
    a = attributes.double()
    weight = torch.full((len(a),), 1 / len(a), dtype=torch.float64)
    for _ in range(100):
        for k in range(a.shape[1]):
            share = weight @ a[:, k]
            target = share.clamp(least, 1 - least)
            if 0 < share < 1:
                weight = weight * torch.where(a[:, k] == 1, target / share, (1 - target) / (1 - share))
    marks = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    return torch.searchsorted((weight.cumsum(0) / weight.sum()), marks).clamp(max=len(a) - 1)


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
        self.layers = nn.Sequential(nn.Linear(NOISE + attributes, 128), nn.LeakyReLU(0.2),
                                    nn.Linear(128, 3 * height * width), nn.Sigmoid())  # fmt: skip

    def forward(self, z, c):
        return self.layers(joined(z, c, 1)).unflatten(1, (3, *self.size)) * 2 - 1


class FullDiscriminator(nn.Module):
    """fcgan: a flattened picture + attributes -> 128 -> 1 logit."""

    def __init__(self, attributes, height=218, width=178):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3 * height * width + attributes, 128), nn.LeakyReLU(0.2),
                                    nn.Linear(128, 1))  # fmt: skip

    def forward(self, x, *requests):
        return [self.layers(joined(x, c, 1)).squeeze(1) for c in requests], None


class Generator(nn.Module):
    """dcgan1 to dcgan5: start (flattened) + attributes -> fc to an eighth of the size, three transposed convolutions.

    dcgan1, 2: noise 100 + A numbers; dcgan3, 4, 5: 3 * size * size of a cube or picture + 10 * A.
    """

    def __init__(self, model, attributes, size=32):
        super().__init__()
        self.repeat, self.base = REPEAT if model in CUBES else 1, size // 8
        self.fc = nn.Linear(math.prod(start_shape(model, size, size)) + self.repeat * attributes, 128 * self.base**2)

        def up(inputs, outputs):
            return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)

        self.layers = nn.Sequential(
            nn.BatchNorm2d(128), nn.LeakyReLU(0.2),          # (128, 4, 4)
            up(128, 64), nn.BatchNorm2d(64), nn.LeakyReLU(0.2),  # (64, 8, 8)
            up(64, 32), nn.BatchNorm2d(32), nn.LeakyReLU(0.2),   # (32, 16, 16)
            up(32, 3), nn.Sigmoid(),                         # (3, 32, 32)
        )  # fmt: skip

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

    At 64 x 64 and with 8 attributes 1.1 million parameters and 27 million multiplications.
    """

    def __init__(self, attributes, size=64, width=256):
        super().__init__()
        widths = [width >> i for i in range(int(math.log2(size // 4)))]  # 256, 128, 64, 32
        self.fc = nn.Linear(NOISE + attributes, width * 16)
        self.norms = nn.ModuleList(ConditionalNorm(attributes, channels) for channels in widths)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
                                 for inputs, outputs in zip(widths, [*widths[1:], 3], strict=True))  # fmt: skip

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

        def down(inputs, outputs):
            return nn.Sequential(nn.Conv2d(inputs, outputs, 4, 2, 1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2))

        def up(inputs, outputs):
            return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), nn.BatchNorm2d(outputs),
                                 nn.LeakyReLU(0.2))  # fmt: skip

        self.down1, self.down2, self.down3 = down(3 + attributes, w), down(w, 2 * w), down(2 * w, 4 * w)
        self.middle = nn.Sequential(nn.Conv2d(4 * w + attributes, 4 * w, 3, padding=1), nn.BatchNorm2d(4 * w),
                                    nn.LeakyReLU(0.2))  # fmt: skip
        self.up3, self.up2, self.up1 = up(4 * w, 2 * w), up(4 * w, w), nn.ConvTranspose2d(2 * w, 4, 4, 2, 1)

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


class ConditionalDiscriminator(nn.Module):
    """Convolutions down to 4 x 4, then three readings of the same features: real or not, whether it fits a request, and
    which attributes it shows.

    The fit is a projection discriminator's (Miyato & Koyama, arXiv 1802.05637), so that a second request for the same
    picture costs next to nothing; the reading is the auxiliary classifier of AC-GAN (Odena et al., arXiv 1610.09585).
    """

    def __init__(self, attributes, size=64, width=32):
        super().__init__()
        widths = [3, *(min(width << i, 256) for i in range(int(math.log2(size // 4))))]  # 32, 64, 128, 256
        layers = []
        for inputs, outputs in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.fc = nn.Linear(widths[-1] * 16, 1 + 2 * attributes)

    def forward(self, x, *requests):
        real, fits, reading = self.fc(self.layers(x)).split([1, *[requests[0].shape[1]] * 2], 1)
        scale = 1 / math.sqrt(fits.shape[1])
        return [real.squeeze(1) + (fits * (c * 2 - 1)).sum(1) * scale for c in requests], reading


def initialise(network, scheme):
    """Draw the weights: "document" N(0, 0.02), biases 0; or "he" (He et al., arXiv 1502.01852).

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
