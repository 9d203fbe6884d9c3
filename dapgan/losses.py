"""How far pictures are from those they repeat, and latents read in real faces from drawn ones.

Pictures are (N, 3, S, S) in [-1, 1], latents (N, L).
"""

from functools import lru_cache

import torch
import torch.nn.functional as F

RECONSTRUCTIONS = ("msssim", "msssim_l1", "l1", "l2", "detail")


@lru_cache
def ms_ssim_constants(scales, window, device):
    """What ms_ssim() smooths with (12, 1, 1, window), and how much each scale counts (scales, 1, 1)."""
    gauss = torch.exp(-((torch.arange(window) - window // 2) ** 2) / (2 * 1.5**2))
    weights = torch.tensor([0.0448, 0.2856, 0.3001][:scales]).view(-1, 1, 1)
    return (gauss / gauss.sum()).repeat(12, 1, 1, 1).to(device), (weights / weights.sum()).to(device)


def ms_ssim(x, y, scales=3, window=7):
    """Multi-scale SSIM (Wang et al. 2003) of pictures (N, 3, S, S) in [-1, 1]: (N,), 1 where they are equal.

    The usual five scales with a window of 11 need more than 160 pixels, and pytorch-msssim's function refuses 64 x 64
    with any window above 3. So: 3 scales, a Gaussian window of 7 (sigma 1.5), the first three of the usual weights
    divided by their sum; contrast and structure at each scale, brightness at the last. Negative structure counts as
    nearly 0 and then has no gradient, so that a picture that is another's opposite is not mended by this loss alone.

    Written with the sum and the difference of the two, s and d: 2 cov(x, y) = (var(s) - var(d)) / 2, var(x) + var(y) =
    (var(s) + var(d)) / 2, likewise 2 E(x) E(y) and E(x)^2 + E(y)^2; all scales at once but for the smoothing.
    """
    kernel, weights = ms_ssim_constants(scales, window, x.device)
    x, y, maps = x.float(), y.float(), []
    both = torch.cat([x + y + 2, x - y], 1) / 2  # (N, 6, S, S): s and d of pictures in [0, 1]
    for scale in range(scales):
        both = F.avg_pool2d(both, 2) if scale else both
        smooth = F.conv2d(torch.cat([both, both * both], 1), kernel, groups=12)
        maps.append(F.conv2d(smooth, kernel.transpose(2, 3), groups=12).flatten(2))
    sizes = [part.shape[2] for part in maps]
    means, squares = torch.cat(maps, 2).chunk(2, 1)  # (N, 6, places of all scales)
    *similar, last = alike(torch.addcmul(squares, means, means, value=-1), 0.03).split(sizes, 2)
    last = last * alike(means[..., -sizes[-1] :].square(), 0.01)
    similar = F.threshold(torch.stack([part.mean(2) for part in (*similar, last)]), 1e-4, 1e-4)  # (scales, N, 3)
    return (similar.log() * weights).sum(0).exp().mean(1)


def alike(of_both, constant):
    """SSIM's quotient 2ab / (a^2 + b^2), from what s and d have of it (N, 6, P): (N, 3, P)."""
    of_sum, of_difference = of_both.chunk(2, 1)
    of_sum = of_sum + 2 * constant**2
    return (of_sum - of_difference) / (of_sum + of_difference)


def reconstruction_loss(x_hat, x, kind):
    """How far pictures are from the ones they repeat, (N, 3, S, S) in [-1, 1]: (N,), 0 where they are equal.

    "msssim" is the document's, 1 - MS-SSIM; "l1" BEGAN's, of pictures in [0, 1]; "l2" the squared error of these;
    "msssim_l1" is l1 and a quarter of msssim, which has a gradient everywhere, sees colours (MS-SSIM alone hardly does)
    and weighs structure; "detail" is that and twice the L1 of the finest level of the Laplacian pyramid (after GLO,
    arXiv 1707.05776, which takes all levels): what a BEGAN's discriminator may leave soft, its generator never draws.
    """
    if kind == "msssim":
        return 1 - ms_ssim(x_hat, x)
    error = (x_hat.float() - x.float()) / 2
    if kind == "l2":
        return error.square().mean((1, 2, 3))
    l1 = error.abs().mean((1, 2, 3))
    if kind == "l1":
        return l1
    loss = l1 + (1 - ms_ssim(x_hat, x)) / 4
    return loss + 2 * finest(error).abs().mean((1, 2, 3)) if kind == "detail" else loss


def finest(x):
    """What pictures (N, 3, S, S) show beyond themselves at half the size: their Laplacian pyramid's first level."""
    return x - F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")


def prior_distance(z_hat, z, directions):
    """Sliced Wasserstein distance, squared, of latents read from real faces to drawn ones (N, L), along directions.

    Kolouri et al., arXiv 1804.01947: what keeps the faces' latents spread as they are drawn. directions: (L, n).
    """
    drawn = torch.stack([z_hat, z]) @ F.normalize(directions, dim=0)
    read, drawn = drawn.sort(1).values
    return (read - drawn).square().mean()
