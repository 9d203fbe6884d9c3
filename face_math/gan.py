"""What all four GANs call: the losses, the gradient penalty, augmentation, diversity, and which model to keep.

The same file in the four (`make copies` after a change; tests/test_parallel.py compares them).
Pictures are (N, 3, H, W) in [-1, 1].
"""

import torch
import torch.nn.functional as F

R1_EVERY = 16  # steps from gradient penalty to gradient penalty, which then counts so many times


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


def sliced_wasserstein(x_fake, x_real, patches=32, directions=128):
    """Sliced Wasserstein distance of two equally many pictures (N, 3, H, W) in [-1, 1]; 0 is equal.

    7 x 7 patches of each scale of a Laplacian pyramid (Karras et al., arXiv 1710.10196, section 5), and the whole
    pictures at less than 16 pixels, all whitened by the real ones: along random directions of plain pixels sharp noise
    has the spread of detail, and nothing else would be seen of it. The mean over the scales, the same patches and
    directions at every call.
    """
    generator = torch.Generator().manual_seed(0)
    fake, real, distances = x_fake.float(), x_real.float(), []
    while True:
        height, width = real.shape[2:]
        last = min(height, width) < 16
        sets = []
        for x in (fake, real):
            if last:
                sets.append(x.flatten(1))
                continue
            detail = x - F.interpolate(F.avg_pool2d(x, 2), (height, width), mode="bilinear")
            generator.manual_seed(height)  # the same spots in both
            spots = torch.randint((height - 6) * (width - 6), (patches,), generator=generator).tolist()
            pieces = [detail[:, :, spot // (width - 6) :, spot % (width - 6) :][:, :, :7, :7] for spot in spots]
            sets.append(torch.cat(pieces).flatten(1))
        variances, axes = torch.linalg.eigh(sets[1].T.cov())
        axes = axes / (variances.clamp(min=0) + 0.01 * variances[-1] + 1e-8).sqrt()  # no single axis may say it all
        axes = axes @ F.normalize(torch.randn(len(axes), directions, generator=generator), dim=0).to(real.device)
        ordered = [((pieces - sets[1].mean(0)) @ axes).sort(0).values for pieces in sets]
        distances.append((ordered[0] - ordered[1]).abs().mean())
        if last:
            return torch.stack(distances).mean().item()
        fake, real = F.avg_pool2d(fake, 2), F.avg_pool2d(real, 2)


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
