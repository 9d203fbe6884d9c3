"""How far pictures are from those they repeat, and latents read in real faces from drawn ones.

Pictures are (N, 3, S, S) in [-1, 1], latents (N, L).
"""

import torch
import torch.nn.functional as F

RECONSTRUCTIONS = ("msssim", "msssim_l1", "l1")


def ms_ssim(x, y, scales=3, window=7):
    """Multi-scale SSIM (Wang et al. 2003) of pictures (N, 3, S, S) in [-1, 1]: (N,), 1 where they are equal.

    The usual five scales with a window of 11 need more than 160 pixels, and pytorch-msssim's function refuses 64 x 64
    with any window above 3. So: 3 scales, a Gaussian window of 7 (sigma 1.5), the first three of the usual weights
    divided by their sum; contrast and structure at each scale, brightness at the last. Negative structure counts as
    nearly 0 and then has no gradient, so that a picture that is another's opposite is not mended by this loss alone.
    """
    weights = torch.tensor([0.0448, 0.2856, 0.3001][:scales], device=x.device)
    weights, last = weights / weights.sum(), scales - 1
    gauss = torch.exp(-((torch.arange(window, device=x.device) - window // 2) ** 2) / (2 * 1.5**2))
    kernel = (gauss / gauss.sum()).expand(15, 1, 1, window)
    x, y, value = x.float() / 2 + 0.5, y.float() / 2 + 0.5, 1
    for scale in range(scales):
        maps = torch.cat([x, y, x * x, y * y, x * y], 1)
        maps = F.conv2d(F.conv2d(maps, kernel, groups=15), kernel.transpose(2, 3), groups=15)
        mean_x, mean_y, xx, yy, xy = maps.split(3, 1)
        product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
        similar = (2 * (xy - product) + 0.03**2) / (xx + yy - squares + 0.03**2)
        if scale == last:
            similar = similar * (2 * product + 0.01**2) / (squares + 0.01**2)
        value = value * similar.mean((2, 3)).clamp(min=1e-4) ** weights[scale]
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return value.mean(1)


def reconstruction_loss(x_hat, x, kind):
    """How far pictures are from the ones they repeat, (N, 3, S, S) in [-1, 1]: (N,), 0 where they are equal.

    "msssim" is the document's, 1 - MS-SSIM; "l1" BEGAN's, of pictures in [0, 1]; "msssim_l1" is that and a quarter of
    the other, which has a gradient everywhere, sees colours (MS-SSIM alone hardly does) and weighs structure.
    """
    if kind == "msssim":
        return 1 - ms_ssim(x_hat, x)
    l1 = (x_hat.float() - x.float()).abs().mean((1, 2, 3)) / 2
    return l1 if kind == "l1" else l1 + (1 - ms_ssim(x_hat, x)) / 4


def prior_distance(z_hat, z, directions):
    """Sliced Wasserstein distance, squared, of latents read from real faces to drawn ones (N, L), along directions.

    Kolouri et al., arXiv 1804.01947: what keeps the faces' latents spread as they are drawn. directions: (L, n).
    """
    directions = F.normalize(directions, dim=0)
    return (z_hat @ directions).sort(0).values.sub((z @ directions).sort(0).values).square().mean()


def repeat(args, gan, raw, x, z, directions):
    """Losses of real pictures x made anew from what was read in them (raw), and of how those latents are spread."""
    z_hat = gan.latent.squash(raw.float())
    with gan.autocast():
        x_hat = gan.generator(z_hat)
    return reconstruction_loss(x_hat, x, args.reconstruction).mean(), prior_distance(z_hat, z, directions)
