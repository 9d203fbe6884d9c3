"""What all four GANs call: the losses, the gradient penalty, augmentation, diversity, and which model to keep.

The same file in the four (`make copies` after a change; tests/test_parallel.py compares them).
Pictures are (N, 3, H, W) in [-1, 1].
"""

import functools

import torch
import torch.nn.functional as F

from common.celeba import FACE, SQUARE
from common.mtcnn import MTCNN

ALIKE = 0.5  # face distance below which pictures cannot be told from real ones by it: so far may two sets of these be
R1_EVERY = 16  # steps from gradient penalty to gradient penalty, which then counts so many times
BY_HEART = 0.3  # the share of D's gap between real and generated pictures that knowing the real ones may account for
RAMP = 100_000  # pictures after which all are augmented if that is always too much, and none if it never is


def discriminator_loss(d_real, d_fake):
    """The discriminator's: cross entropy of real and generated pictures told apart, on logits, of any shape."""
    return F.softplus(-d_real).mean() + F.softplus(d_fake).mean()


def generator_loss(d_fake):
    """The generator's: -log D of what it made, on logits (Goodfellow et al., arXiv 1406.2661, section 3)."""
    return F.softplus(-d_fake).mean()


def r1_penalty(discriminator, x):
    """Mean squared length of the gradient of the logit by real pictures x (Mescheder et al., arXiv 1801.04406)."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    return gradient.float().square().sum((1, 2, 3)).mean()


def diversity(x_fake, x_real):
    """Mean pairwise distance of generated pictures over that of real ones, both (N, 3, H, W); near 0: one picture."""
    return (torch.pdist(x_fake.float().flatten(1)).mean() / torch.pdist(x_real.float().flatten(1)).mean()).item()


@torch.no_grad()
def face_distance(x_fake, x_real, crop=SQUARE):
    """Kernel distance of generated to real faces, both (N, 3, H, W) in [-1, 1], as the face detector sees them.

    KID (Binkowski et al., arXiv 1801.01401: the unbiased squared MMD with the kernel (a.b / D + 1)^3) on face_numbers,
    each by its spread over the real ones. About 0: two sets of real faces. crop: as of face_numbers.
    """
    sets = [face_numbers(x, crop) for x in (x_fake, x_real)]
    spread = sets[1].std(0)
    fake, real = ((numbers / (spread + 0.1 * spread.mean())).double() for numbers in sets)
    same, other, between = ((a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((fake, fake), (real, real), (fake, real)))
    within = [(k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (same, other)]
    return (sum(within) - 2 * between.mean()).item()


def score(distance, read=1.0, enough=1.0):
    """What a model is kept by, less is better: its face distance, times more the less is read as it was to be.

    read: the share that is, in the eyes of some reader; enough: from which share on all count as equal. Of models that
    look real and are read so the newest is to be kept, so they all have one number.
    """
    return max(distance, ALIKE) * (enough / max(min(round(read, 2), enough), 0.01)) ** 4


@torch.no_grad()
def face_numbers(x, crop=SQUARE):
    """The 256 numbers from which MTCNN's O-Net reads a face, (N, 256), of pictures (N, 3, H, W) in [-1, 1].

    crop: the box of CelebA's aligned pictures, left, top, width and height, that the pictures show.
    """
    left, right, top, bottom = (
        round(max(0, FACE[i] + end * FACE[i + 2] - crop[i]) * x.shape[3 - i] / crop[i + 2])
        for i in (0, 1)
        for end in (0, 1)
    )
    face = x[:, :, top:bottom, left:right]
    parts = F.interpolate(face.float().clamp(-1, 1), (48, 48), mode="bilinear", antialias=True).split(256)
    return torch.cat([face_reader(x.device)(part * 127.5 / 128) for part in parts])


@functools.cache
def face_reader(device):
    """O-Net but for its answers: (N, 3, 48, 48) -> (N, 256)."""
    return MTCNN(device).onet.body


def by_heart(d_train, d_validation, d_fake):
    """Whether a discriminator knows training pictures by heart, (), more than 0 if so, from its logits of three kinds.

    It finds them more real than validation pictures: r_v of Karras et al., arXiv 2006.06676, section 3.1, less BY_HEART
    and times its divisor.
    """
    train, validation, fake = (logits.detach().mean() for logits in (d_train, d_validation, d_fake))
    return (train - validation) - BY_HEART * (train - fake).abs()


def adapt(share, known, batch_size):
    """Augment a larger share of the pictures while the discriminator knows the training ones by heart, else a smaller.

    share (): in [0, 1], changes in place; known (): of by_heart, the mean of all processes; batch_size: of all.
    """
    share.add_(known.sign() * (batch_size / RAMP)).clamp_(0, 1)


def augmentation(share, views, count):
    """Numbers (views, 7, count) for `diff_augment`; but for a share () of the pictures those that change nothing."""
    numbers = torch.rand(views, 8, count, device=share.device)
    still = (torch.arange(7, device=share.device) // 5 * 1.5 + 0.5)[:, None]  # 0.5, and a hole at 2, which is outside
    return torch.where(numbers[:, 7:] < share, numbers[:, :7], still)


def diff_augment(x, numbers):
    """Differentiable augmentation (Zhao et al., arXiv 2006.10738): colour, translation by an eighth, a hole of half.

    x: (N, 3, H, W) in [-1, 1]; numbers: (7, N) uniform in [0, 1), a column a picture. What is shifted in is 0.
    """
    brightness, saturation, contrast = numbers[:3, :, None, None, None]
    x = x + brightness - 0.5
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * saturation * 2 + grey
    grey = x.mean((1, 2, 3), keepdim=True)
    x = (x - grey) * (contrast + 0.5) + grey

    height, width = x.shape[2:]
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    right, down = ((numbers[3] * 2 - 1) * width / 8).round(), ((numbers[4] * 2 - 1) * height / 8).round()
    source = (rows - down[:, None])[:, :, None], (columns - right[:, None])[:, None, :]  # (N, H, 1), (N, 1, W)
    inside = (source[0] >= 0) & (source[0] < height) & (source[1] >= 0) & (source[1] < width)
    hole = [(axis - (centre * size).floor()[:, None]).abs() < size / 4
            for axis, centre, size in ((rows, numbers[5], height), (columns, numbers[6], width))]  # fmt: skip
    shown = inside & ~(hole[0][:, :, None] & hole[1][:, None, :])
    which = torch.arange(len(x), device=x.device)[:, None, None]
    x = x[which, :, source[0].clamp(0, height - 1).long(), source[1].clamp(0, width - 1).long()]  # (N, H, W, 3)
    return (x * shown[..., None]).permute(0, 3, 1, 2)
