"""HyperFace encoder and DCGAN decoder: a face as a short vector and back.

Encoder: HyperFace (Ranjan et al., arXiv 1603.01249), an AlexNet whose early, middle and late maps are fused.
Decoder: DCGAN (Radford et al., arXiv 1511.06434), transposed convolutions from a 4 x 4 map up.
Pictures are (N, 3, H, W) in [-1, 1]; an embedding is (N, embed_size).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

X_SIZE = 227  # the encoder's unpadded convolutions are made for this input, and no other


def map_sizes(height, width):
    """The decoder's map sizes, a list of (height, width) that double from a base of 4 (one side 4 or 8) to the picture.

    Raises ValueError for a picture size that is not reached so.
    """
    doublings = int(math.log2(max(min(height, width), 4) // 4))
    base = (height / 2**doublings, width / 2**doublings)
    if not 1 <= doublings <= 6 or sorted(base) not in ([4, 4], [4, 8]):
        raise ValueError(
            f"no decoder makes pictures {width} wide and {height} high: each side must be one of 8, 16, 32, 64, 128, "
            "256, 512 and neither more than twice the other"
        )
    return [(int(base[0]) * 2**i, int(base[1]) * 2**i) for i in range(doublings + 1)]


def resize(x, size):
    """(N, 3, h, w) -> (N, 3, *size): bilinear to larger, area means to smaller; x itself where it has that size."""
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size, mode="area" if size[0] < x.shape[2] else "bilinear")


class Encoder(nn.Module):
    """HyperFace's fused AlexNet: (N, 3, 227, 227) -> (N, embed_size).

    multiplier scales every channel count (1 is the paper's: 27.5 million parameters); batch_norm puts a batch norm
    behind every layer but the last; activation "relu" cuts the embedding at 0, as the old program did.
    """

    def __init__(self, embed_size=100, multiplier=1.0, batch_norm=False, activation="linear"):
        super().__init__()

        def c(channels):
            return max(1, round(channels * multiplier))

        def conv(inputs, outputs, kernel, stride=1, padding=0):
            norm = [nn.BatchNorm2d(outputs)] if batch_norm else []
            layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=not batch_norm)
            return nn.Sequential(layer, *norm, nn.ReLU(inplace=True))

        def fc(inputs, outputs):
            norm = [nn.BatchNorm1d(outputs)] if batch_norm else []
            return nn.Sequential(nn.Linear(inputs, outputs, bias=not batch_norm), *norm, nn.ReLU(inplace=True))

        self.conv1 = conv(3, c(96), 11, stride=4)
        self.conv1a = conv(c(96), c(256), 4, stride=4)
        self.conv2 = conv(c(96), c(256), 5, padding=2)
        self.conv3 = conv(c(256), c(384), 3, padding=1)
        self.conv3a = conv(c(384), c(256), 2, stride=2)
        self.conv4 = conv(c(384), c(384), 3, padding=1)
        self.conv5 = conv(c(384), c(256), 3, padding=1)
        self.pool = nn.MaxPool2d(3, stride=2)
        self.conv_all = conv(3 * c(256), c(192), 1)
        self.fc_full = fc(c(192) * 6 * 6, c(3072))
        self.fc_full2 = fc(c(3072), c(512))
        self.embedding = nn.Linear(c(512), embed_size)
        self.activation = activation

    def forward(self, x):  #                                                    (N, 3, 227, 227)
        max1 = self.pool(self.conv1(x))  #                                      (N, 96, 27, 27)
        max2 = self.pool(self.conv2(max1))  #                                   (N, 256, 13, 13)
        conv3 = self.conv3(max2)  #                                             (N, 384, 13, 13)
        pool5 = self.pool(self.conv5(self.conv4(conv3)))  #                     (N, 256, 6, 6)
        fused = torch.cat([self.conv1a(max1), self.conv3a(conv3), pool5], 1)  # (N, 768, 6, 6)
        h = self.conv_all(fused).flatten(1)  #                                  (N, 192 * 6 * 6)
        h = self.embedding(self.fc_full2(self.fc_full(h)))  #                   (N, embed_size)
        return h.relu() if self.activation == "relu" else h


class Decoder(nn.Module):
    """DCGAN's generator on an embedding: (N, embed_size) -> (N, 3, height, width) in [-1, 1].

    The map doubles with every layer and its channels halve, from 1024 * multiplier. Raises ValueError as `map_sizes`.
    """

    def __init__(self, embed_size=100, height=64, width=64, multiplier=1.0, batch_norm=False):
        super().__init__()
        self.base, *maps = map_sizes(height, width)
        channels = [max(1, round(1024 * multiplier) >> i) for i in range(len(maps))]
        self.fc = nn.Linear(embed_size, channels[0] * self.base[0] * self.base[1])
        layers = []
        for inputs, outputs in zip(channels, channels[1:] + [3], strict=True):
            layers += [nn.BatchNorm2d(inputs)] if batch_norm else []
            layers += [nn.ReLU(inplace=True)]
            layers += [nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, embedding):
        h = self.fc(embedding).unflatten(1, (-1, *self.base))  # (N, 1024, 4, 4)
        return torch.tanh(self.layers(h))  #                     (N, 3, height, width)


class AutoEncoder(nn.Module):
    """A face crop of any size in, what its embedding knows of it out, at (height, width).

    people: how many decoders share the encoder (the DeepFakes set-up; else 1). The principal components of the training
    faces are kept beside the networks (`set_pca`): the linear auto-encoder of equal size is what they have to beat.
    pca_path: the embedding starts as the first principal components, to which the encoder adds, and the picture as
    those components, to which the decoder adds, and a perceptron that guesses the next ones (600 in all) from the
    embedding: a skip connection for the coarse picture. It is not part of the document's recipe.
    """

    def __init__(self, embed_size=100, height=64, width=64, multiplier=1.0, batch_norm=False, activation="linear",
                 pca_path=False, people=1):  # fmt: skip
        super().__init__()
        self.embed_size, self.size, self.pca_path = embed_size, (height, width), pca_path
        self.encoder = Encoder(embed_size, multiplier, batch_norm, activation)
        self.decoders = nn.ModuleList(Decoder(embed_size, height, width, multiplier, batch_norm) for _ in range(people))
        kept = max(600, embed_size) if pca_path else embed_size
        self.register_buffer("mean", torch.zeros(3 * height * width))
        self.register_buffer("components", torch.zeros(kept, 3 * height * width))
        self.register_buffer("spread", torch.ones(kept))
        if pca_path:
            self.perceptrons = nn.ModuleList(self.perceptron(embed_size, 1024, kept) for _ in range(people))

    @staticmethod
    def perceptron(inputs, hidden, outputs):
        layers = []
        for size in (inputs, hidden):
            layers += [nn.Linear(size, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Dropout(0.3)]
        return nn.Sequential(*layers, nn.Linear(hidden, outputs))

    def constants(self):
        """The buffers that training does not change, which a running mean of the weights shares."""
        return [self.mean, self.components, self.spread]

    def target(self, x):
        """What the decoder is to repeat of a crop: (N, 3, h, w) -> (N, 3, height, width)."""
        return resize(x, self.size)

    def encode(self, x):
        """(N, 3, h, w) in [-1, 1], face crops of any size -> (N, embed_size)."""
        embedding = self.encoder(resize(x, (X_SIZE, X_SIZE)))
        return embedding + self.pca_encode(self.target(x)) if self.pca_path else embedding

    def decode(self, embedding, person=0):
        """(N, embed_size) -> (N, 3, height, width) in [-1, 1], by one person's decoder."""
        x_hat = self.decoders[person](embedding)
        if self.pca_path:
            x_hat = x_hat + self.pca_decode(embedding, self.perceptrons[person](embedding))
        return x_hat if self.training else x_hat.clamp(-1, 1)

    def search(self, x, embedding, n_iter, learning_rate=0.2):
        """Embeddings (N, embed_size) that repeat x (N, 3, height, width) better, searched for from those given.

        Adam on each picture's squared error, n_iter steps at a rate that falls to 0 along half a cosine: what an
        encoder trained on other faces leaves undone (Cremer et al., arXiv 1801.03558). The network is used as it is,
        in eval mode, with its first decoder.
        """
        found = embedding.detach().clone().requires_grad_(True)
        optimizer = torch.optim.Adam([found], betas=(0.7, 0.99), eps=1e-12)
        for step in range(n_iter):
            optimizer.param_groups[0]["lr"] = learning_rate * (1 + math.cos(math.pi * step / n_iter)) / 2
            with torch.enable_grad():
                loss = (self.decode(found) - x).square().sum()
            (found.grad,) = torch.autograd.grad(loss, found)
            optimizer.step()
        return found.detach()

    def forward(self, x):
        """(N, 3, h, w) -> x_hat (N, 3, height, width), embedding (N, embed_size).

        With several people, the i-th of as many equal parts of the batch goes through the i-th decoder.
        """
        embedding = self.encode(x)
        parts = embedding.chunk(len(self.decoders))
        return torch.cat([self.decode(part, person) for person, part in enumerate(parts)]), embedding

    def pca_encode(self, x):
        """(N, 3, height, width) -> (N, embed_size), each number of spread 1 over the training faces."""
        return F.linear(x.flatten(1) - self.mean, self.components[: self.embed_size]) / self.spread[: self.embed_size]

    def pca_decode(self, embedding, more=0):
        """The picture (N, 3, height, width) of these first components, and more (N, all components) on top of them."""
        coefficients = F.pad(embedding, (0, len(self.spread) - self.embed_size)) + more
        return F.linear(coefficients * self.spread, self.components.T, self.mean).unflatten(1, (3, *self.size))

    def pca(self, x):
        """(N, 3, height, width) as the PCA of equal size knows it, clamped to [-1, 1]."""
        return self.pca_decode(self.pca_encode(x)).clamp(-1, 1)

    def set_pca(self, mean, components, spread):
        """Keep what `fit_pca` found; with a PCA path, silence the networks, so that training starts at the PCA."""
        for buffer, value in ((self.mean, mean), (self.components, components), (self.spread, spread)):
            buffer.copy_(value)
        if self.pca_path:
            nn.init.zeros_(self.encoder.embedding.weight)
            for perceptron, decoder in zip(self.perceptrons, self.decoders, strict=True):
                nn.init.zeros_(perceptron[-1].weight)
                nn.init.zeros_(decoder.layers[-1].weight)


def initialise(model, scheme):
    """Draw the weights: "document" N(0, 0.01) in the encoder and N(0, 0.02) in the decoder, biases 0; or "he".

    "he" (He et al., arXiv 1502.01852) keeps the signal's size from layer to layer; with the document's, the first
    embeddings have a spread of 1e-4.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            if scheme == "document":
                nn.init.normal_(layer.weight, std=0.01 if name.startswith("encoder") else 0.02)
            else:
                fan_in = layer.weight[0].numel()
                if isinstance(layer, nn.ConvTranspose2d):  # each output pixel sees a quarter of a stride-2 kernel
                    fan_in = layer.weight[:, 0].numel() / 4
                nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_in))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    if scheme == "he":  # the two layers behind which no ReLU comes: embeddings of spread 1, first pictures near grey
        nn.init.normal_(model.encoder.embedding.weight, std=1 / math.sqrt(model.encoder.embedding.in_features))
        for decoder in model.decoders:
            nn.init.normal_(decoder.layers[-1].weight, std=0.02)


def fit_pca(x, count):
    """Principal components of pictures x (N, D): mean (D,), components (count, D), spread (count,) > 0.

    The linear auto-encoder of least squared error (Baldi & Hornik 1989): what a network has to beat. Randomised SVD
    (Halko et al., arXiv 0909.4061). Fewer pictures than components: the missing components are zero.
    """
    mean = x.mean(0)
    rank = min(count, *x.shape)
    _, s, v = torch.svd_lowrank(x - mean, q=min(rank + 20, *x.shape), niter=4)
    components, spread = torch.zeros(count, x.shape[1], device=x.device), torch.ones(count, device=x.device)
    components[:rank] = v.T[:rank]
    spread[:rank] = (s[:rank] / math.sqrt(len(x))).clamp(min=1e-3)
    return mean, components, spread
