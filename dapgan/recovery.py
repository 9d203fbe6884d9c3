"""The latent of a picture by direct optimisation, and the four losses that the document compares for it.

Pictures are (N, 3, S, S) in [-1, 1], latents (N, L). After the DAPGAN document; VGG16: arXiv 1409.1556.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from pytorch_msssim import ssim

from common.photos import InputError

METHODS = ("predictor", "optimisation", "both")
LOSSES = ("mse", "ssim", "msssim", "vgg16")
VGG_LAYERS = 24  # of VGG16's convolutional part, as the document cuts it: the last is relu4_3's pooling


def recovery_loss(kind, ms_ssim, download, device):
    """A function of (x_hat, x) that gives each picture's loss (N,): squared error, 1 - SSIM or 1 - MS-SSIM of pictures
    in [0, 1], or the squared error of VGG16's features (ImageNet's mean and deviation, pictures as they are).

    InputError: VGG16's weights are not there; they come with torchvision's download alone.
    """
    if kind == "mse":
        return lambda x_hat, x: (x_hat - x).square().mean((1, 2, 3))
    if kind == "ssim":
        return lambda x_hat, x: 1 - ssim(x_hat / 2 + 0.5, x / 2 + 0.5, data_range=1, size_average=False)
    if kind == "msssim":
        return lambda x_hat, x: 1 - ms_ssim(x_hat, x)
    from torchvision.models import VGG16_Weights, vgg16  # takes seconds, which the others need not wait for

    weights = VGG16_Weights.IMAGENET1K_V1
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not path.exists() and not download:
        raise InputError("VGG16's weights (528 MB) are not here: add --download once, or take --recovery_loss mse, "
                         "ssim or msssim")  # fmt: skip
    try:
        features = vgg16(weights=weights, progress=False).features[:VGG_LAYERS].to(device).eval().requires_grad_(False)
    except (OSError, RuntimeError) as error:
        raise InputError(f"VGG16's weights could not be fetched ({error}): take --recovery_loss mse, ssim or msssim") \
            from None  # fmt: skip
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1)
                 for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))  # fmt: skip

    def perceptual(x_hat, x):
        seen_hat, seen = (features((pictures / 2 + 0.5 - mean) / std) for pictures in (x_hat, x))
        return F.mse_loss(seen_hat, seen, reduction="none").mean((1, 2, 3))

    return perceptual


def optimise(generator, latent, x, start, loss_of, n_iter=100, rate=0.05):
    """Adam on (noise, code) at a rate that falls to 0 along half a cosine, each picture by itself.

    After each step the latent is brought back to what may be drawn (`Latent.constrain`). generator is used as it is: in
    eval mode. Returns the latents (N, L) of each picture's lowest loss, and those losses (N,).
    """
    z = latent.constrain(start)
    optimizer = torch.optim.Adam([z], betas=(0.9, 0.99))
    best, kept = torch.full((len(z),), math.inf, device=z.device), z.clone()
    for step in range(n_iter + 1):
        optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / max(1, n_iter))) / 2
        z.requires_grad_(step < n_iter)
        loss = loss_of(generator(z).float(), x)
        better = loss.detach() < best
        best, kept = torch.where(better, loss.detach(), best), torch.where(better[:, None], z.detach(), kept)
        if step == n_iter:
            break
        (z.grad,) = torch.autograd.grad(loss.sum(), z)  # of z alone, whatever the generator's weights are asked for
        optimizer.step()
        z.data.copy_(latent.constrain(z.data))
    return kept, best
