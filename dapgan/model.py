"""The latent numbers, InfoGAN's networks, BEGAN's, and the predictor that reads a picture's latent numbers.

After the DAPGAN document, InfoGAN (arXiv 1606.03657), DCGAN (arXiv 1511.06434) and BEGAN (arXiv 1703.10717). Pictures
are (N, 3, S, S) in [-1, 1] with S one of 32, 64, 128; a latent is (N, L): noise, then the code.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

SIZES = (32, 64, 128)
MODELS = ("infogan", "began", "info_began")


class Latent:
    """What a generator is fed: noise, then the code: one-hot components and continuous numbers.

    noise: how many numbers, uniform in [-1, 1]; categorical: a list of how many classes each one-hot component has;
    continuous: how many numbers, uniform in [-1, 1]. sizes: of these parts; size: of all; code_size: of the code.
    """

    def __init__(self, noise=64, categorical=(10,), continuous=2):
        self.noise, self.categorical, self.continuous = noise, list(categorical), continuous
        self.sizes = [noise, *self.categorical, continuous]
        self.code_size = sum(self.categorical) + continuous
        self.size = noise + self.code_size

    def draw(self, count, random=None, device="cpu"):
        """(count, size), drawn as the generator is trained with them; random: a torch.Generator of the device."""
        how = dict(generator=random, device=device)
        flat = torch.rand(count, self.noise + self.continuous, **how) * 2 - 1
        drawn = [(n, torch.randint(n, (count, 1), **how)) for n in self.categorical]
        classes = [(number == torch.arange(n, device=device)).float() for n, number in drawn]
        return torch.cat([flat[:, : self.noise], *classes, flat[:, self.noise :]], 1)

    def mean(self):
        """(size,): the mean of what is drawn."""
        classes = [torch.full((n,), 1 / n) for n in self.categorical]
        return torch.cat([torch.zeros(self.noise), *classes, torch.zeros(self.continuous)])

    def parts(self, latent):
        """(N, size) -> noise, a list of the categorical components, the continuous numbers; of raw numbers too."""
        noise, *classes, continuous = latent.split(self.sizes, 1)
        return noise, classes, continuous

    def squash(self, raw):
        """What a head gives (N, size), without bounds -> a latent: tanh, and softmax for each one-hot component."""
        noise, classes, continuous = self.parts(raw)
        return torch.cat([torch.tanh(noise), *(c.softmax(1) for c in classes), torch.tanh(continuous)], 1)

    def constrain(self, latent):
        """The nearest latent that may be drawn, or lies between such: [-1, 1], and shares of classes that sum to 1."""
        noise, classes, continuous = self.parts(latent)
        shares = [c.clamp(0, 1) + 1e-6 for c in classes]
        shares = [share / share.sum(1, keepdim=True) for share in shares]
        return torch.cat([noise.clamp(-1, 1), *shares, continuous.clamp(-1, 1)], 1)

    def losses(self, raw, latent):
        """How far what was read (N, size), raw, is from the latent: (code, noise), each a number.

        Code: cross entropy of each one-hot component and squared error of the continuous numbers, added; noise: squared
        error. Parts that are not there count 0.
        """
        (noise_hat, classes_hat, continuous_hat), (noise, classes, continuous) = self.parts(raw), self.parts(latent)
        code = raw.new_zeros(())
        for class_hat, class_ in zip(classes_hat, classes, strict=True):
            code = code + F.cross_entropy(class_hat, class_)
        if self.continuous:
            code = code + F.mse_loss(torch.tanh(continuous_hat), continuous)
        return code, F.mse_loss(torch.tanh(noise_hat), noise) if self.noise else raw.new_zeros(())


# ---------------------------------------------------------------------------------------------------------------------
# InfoGAN: DCGAN's layers; the discriminator and the encoder share all but the last


def dcgan_channels(image_size, hidden):
    """Channels of the maps from 4 x 4 to half the picture's size: 8, 4, 2, 1 times hidden at 64; never more than 8."""
    doublings = int(math.log2(image_size // 4))
    return [hidden * min(8, 2**i) for i in reversed(range(doublings))]


class InfoGenerator(nn.Module):
    """A latent to a picture: fc to 4 x 4, 4 x 4 stride-2 transposed convolutions, batch norm and ReLU between.

    colours: 3, or 1 for grey pictures, which come out with three equal channels.
    """

    def __init__(self, latent_size, image_size=64, hidden=64, colours=3):
        super().__init__()
        maps = dcgan_channels(image_size, hidden)
        self.fc = nn.Linear(latent_size, maps[0] * 16)
        layers = []
        for inputs, outputs in zip(maps, maps[1:] + [colours], strict=True):
            layers += [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)]
        self.layers = nn.Sequential(*layers)
        initialise_dcgan(self)

    def forward(self, latent):
        h = self.fc(latent).unflatten(1, (-1, 4, 4))  #        (N, 8 hidden, 4, 4)
        h = h.to(memory_format=torch.channels_last)
        x = torch.tanh(self.layers(h))  #                      (N, colours, S, S)
        return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


def dcgan_encoder(image_size, hidden, batch_norm):
    """4 x 4 stride-2 convolutions with leaky ReLU 0.2, batch norm on all but the first, flattened; and its width."""
    maps = [3, *reversed(dcgan_channels(image_size, hidden))]
    layers = []
    for i, (inputs, outputs) in enumerate(zip(maps, maps[1:], strict=False)):
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1)]
        layers += [nn.BatchNorm2d(outputs)] if batch_norm and i else []
        layers += [nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, nn.Flatten()), maps[-1] * 16


def last_maps(layers, x):
    """What the layers of an encoder make of x after their activations: of the last two sizes the last (N, C, h, w)."""
    maps = {}
    for layer in layers:
        x = layer(x)
        if isinstance(layer, (nn.LeakyReLU, nn.ELU)):
            maps[x.shape[2]] = x
    return list(maps.values())[-2:]


class InfoDiscriminator(nn.Module):
    """A picture to the logit of "real" (N,), and what is read of its latent, raw (N, latent_size).

    Three heads on the same convolutions: real or fake, noise, code. batch_norm: as DCGAN has it.
    """

    def __init__(self, latent, image_size=64, hidden=64, batch_norm=True):
        super().__init__()
        self.encoder, width = dcgan_encoder(image_size, hidden, batch_norm)
        self.real = nn.Linear(width, 1)
        self.noise = nn.Linear(width, latent.noise)
        self.code = nn.Linear(width, latent.code_size)
        initialise_dcgan(self, batch_norm)

    def forward(self, x):
        h = self.encoder(x)  #                                 (N, 16 * 8 hidden)
        return self.real(h).squeeze(1), torch.cat([self.noise(h), self.code(h)], 1)

    def read(self, x):
        """Pictures -> what is read of their latents, raw (N, latent_size)."""
        return self(x)[1]

    def maps(self, x):
        """Pictures -> what the encoder sees, of last_maps."""
        return last_maps(self.encoder, x)


def initialise_dcgan(network, batch_norm=True):
    """DCGAN's first weights: N(0, 0.02), batch norm's scale N(1, 0.02), biases 0; He et al.'s without batch norm."""
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


# ---------------------------------------------------------------------------------------------------------------------
# BEGAN: encoder and decoder of 3 x 3 convolutions and ELU; the decoder is the generator too


def began_channels(image_size, hidden, taper):
    """Channels of the encoder's and of the decoder's maps, from the picture's size down to 8 x 8.

    The document's encoder has 1, 2, 3, 3 times hidden, its decoder hidden everywhere; with taper both have 1, 2, 4, 8
    times (never more than 8), which costs the same at every size and puts the channels where pixels are few.
    """
    scales = int(math.log2(image_size // 8)) + 1
    if taper:
        return [hidden * min(8, 2**i) for i in range(scales)], [hidden * min(8, 2**i) for i in range(scales)]
    return [hidden * min(3, 1 + i) for i in range(scales)], [hidden] * scales


def convolutions(channels, depth):
    """So many 3 x 3 convolutions of equal width, each with ELU."""
    layers = []
    for _ in range(depth):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ELU(inplace=True)]
    return layers


class Decoder(nn.Module):
    """Numbers to a picture: fc to 8 x 8, per scale 3 x 3 convolutions with ELU and nearest upsampling, to 3 and tanh.

    The generator (size: the latent's), and the second half of the discriminator (size: embedding and code). depth:
    convolutions a scale. Where the width changes, a 1 x 1 before the upsampling does it, as in the encoder.
    """

    def __init__(self, size, image_size=64, hidden=128, taper=False, depth=2):
        super().__init__()
        maps = began_channels(image_size, hidden, taper)[1][::-1]
        self.fc = nn.Linear(size, maps[0] * 64)
        layers = convolutions(maps[0], depth)
        for before, channels in zip(maps, maps[1:], strict=False):
            layers += [nn.Conv2d(before, channels, 1)] if before != channels else []
            layers += [nn.Upsample(scale_factor=2), *convolutions(channels, depth)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(maps[-1], 3, 3, padding=1))
        initialise_began(self)

    def forward(self, latent):
        h = self.fc(latent).unflatten(1, (-1, 8, 8))  #        (N, hidden, 8, 8)
        h = h.to(memory_format=torch.channels_last)
        return torch.tanh(self.layers(h))  #                   (N, 3, S, S)


class Encoder(nn.Module):
    """A picture to `outputs` numbers: 3 x 3 convolutions with ELU, 2 x 2 average pooling and 1 x 1 to more channels."""

    def __init__(self, outputs=64, image_size=64, hidden=128, taper=False, depth=2):
        super().__init__()
        maps = began_channels(image_size, hidden, taper)[0]
        layers = [nn.Conv2d(3, hidden, 3, padding=1), nn.ELU(inplace=True), *convolutions(hidden, depth)]
        for before, channels in zip(maps, maps[1:], strict=False):
            # Pooled before the 1 x 1, which gives the same numbers as after it, at a quarter of the work.
            layers += [nn.AvgPool2d(2), nn.Conv2d(before, channels, 1), *convolutions(channels, depth)]
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(maps[-1] * 64, outputs)
        initialise_began(self)

    def forward(self, x):
        return self.fc(self.layers(x).flatten(1))  #           (N, outputs)


class AutoEncoder(nn.Module):
    """BEGAN's discriminator: a picture to the same picture, by way of an embedding, from which the code is read.

    Returns the picture (N, 3, S, S) and what is read of the latent, raw (N, latent_size): the noise too with read_noise
    (else zeros), so that the encoder can tell the latent of any picture. The decoder is fed embedding and code.
    """

    def __init__(self, latent, image_size=64, hidden=128, taper=False, depth=2, read_noise=False):
        super().__init__()
        self.latent = latent
        self.encoder = Encoder(64, image_size, hidden, taper, depth)
        self.code = nn.Linear(64, latent.code_size) if latent.code_size else None
        self.noise = nn.Linear(64, latent.noise) if read_noise else None
        self.decoder = Decoder(64 + latent.code_size, image_size, hidden, taper, depth)

    def forward(self, x):
        embedding, raw = self.encode(x)
        code = self.latent.squash(raw)[:, self.latent.noise :]
        return self.decoder(torch.cat([embedding, code], 1)), raw

    def encode(self, x):
        """Pictures -> the embedding, and what is read of their latents, raw."""
        embedding = self.encoder(x)  #                         (N, 64)
        noise = self.noise(embedding) if self.noise else embedding.new_zeros(len(x), self.latent.noise)
        return embedding, torch.cat([noise, self.code(embedding)], 1) if self.code else noise

    def read(self, x):
        """Pictures -> what is read of their latents, raw (N, latent_size)."""
        return self.encode(x)[1]

    def maps(self, x):
        """Pictures -> what the encoder sees, of last_maps."""
        return last_maps(self.encoder.layers, x)


class Predictor(nn.Module):
    """A picture to what is read of its latent, raw (N, latent_size): an encoder of its own, a head for noise and code.

    The encoder has DCGAN's layers for infogan, BEGAN's for the others; the heads are 64-128-256 with ELU. linear: the
    heads are one layer each instead, as in a discriminator that reads the noise, so that it can start as its copy.
    corrections: so often what is read is drawn, and corrected by how that differs from the picture, to the encoder's
    eyes (after ReStyle, arXiv 2104.02699, but with one encoder for all looks, and a linear layer on the difference).
    """

    def __init__(
        self,
        model,
        latent,
        image_size=64,
        hidden=128,
        taper=False,
        depth=2,
        batch_norm=True,
        linear=False,
        corrections=0,
    ):
        super().__init__()
        if model == "infogan":
            self.encoder, width = dcgan_encoder(image_size, hidden, batch_norm)
            initialise_dcgan(self, batch_norm)
        else:
            self.encoder, width = Encoder(64, image_size, hidden, taper, depth), 64

        def head(outputs):
            layers = [nn.Linear(width, 64), nn.ELU()] if model == "infogan" else []
            layers += [nn.Linear(64, 128), nn.ELU(), nn.Linear(128, 256), nn.ELU(), nn.Linear(256, outputs)]
            return nn.Linear(width, outputs) if linear else initialise_began(nn.Sequential(*layers))

        self.noise = head(latent.noise)
        self.code = head(latent.code_size) if latent.code_size else None
        self.corrections = corrections
        self.correct = nn.Linear(width, latent.size, bias=False) if corrections else None
        if corrections:
            nn.init.zeros_(self.correct.weight)

    def read(self, x, draw=None):
        """Pictures -> what is read of their latents, raw (N, latent_size).

        draw: the generator, as a function of such raw numbers; needed for corrections, and without it there are none.
        """
        h = self.encoder(x)
        raw = (torch.cat([self.noise(h), self.code(h)], 1) if self.code else self.noise(h)).float()
        for _ in range(self.corrections if draw else 0):
            raw = raw + self.correct(h - self.encoder(draw(raw)))
        return raw

    def start_as(self, known):
        """Take the weights of another reader of this shape, by name; corrections it lacks begin as a part of its heads.

        Moving by three tenths of what it reads otherwise in the picture drawn makes validation faces nearer untrained.
        """
        own = self.state_dict()
        self.load_state_dict(own | {name: known[name] for name in own if name in known or name != "correct.weight"})
        if self.corrections and "correct.weight" not in known and isinstance(self.noise, nn.Linear):
            heads = [head.weight.data for head in (self.noise, self.code) if head]
            self.correct.weight.data.copy_(0.3 * torch.cat(heads))


def initialise_began(network):
    """He et al.'s first weights (arXiv 1502.01852), which carry a signal through many layers without batch norm.

    The last layer's are a third of that: tanh is steep near 0. Returns the network.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    layers[-1].weight.data.mul_(0.3)
    return network
