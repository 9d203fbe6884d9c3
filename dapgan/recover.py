"""--run recover: the latents of pictures, read by the predictor, found by direct optimisation, or both.

After the DAPGAN document, which compares four losses for the optimisation; VGG16: arXiv 1409.1556. Pictures are
(N, 3, S, S) in [-1, 1], latents (N, L).
"""

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from common.celeba import to_tensor, to_uint8
from common.photos import InputError, save_pictures, write_table
from dapgan.loading import load_model, load_pictures, run_name
from dapgan.losses import ms_ssim
from dapgan.plumbing import in_chunks, output_folder, place, psnr, save_sheet

METHODS = ("predictor", "optimisation", "both")
LOSSES = ("mse", "ssim", "msssim", "vgg16")
VGG_LAYERS = 24  # of VGG16's convolutional part, as the document cuts it: the last is relu4_3's pooling
VGG_MEAN, VGG_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the pictures it was trained on
UNREAD = "no predictor to read a latent with: --run train_predictor first, or --method optimisation"


def recovery_loss(kind, download, device):
    """A function of (x_hat, x) that gives each picture's loss (N,): squared error, 1 - SSIM or 1 - MS-SSIM of pictures
    in [0, 1], or the squared error of VGG16's features (ImageNet's mean and deviation, pictures as they are).

    InputError: VGG16's weights are not there; they come with torchvision's download alone.
    """
    if kind == "mse":
        return lambda x_hat, x: (x_hat - x).square().mean((1, 2, 3))
    if kind == "ssim":
        from pytorch_msssim import ssim

        return lambda x_hat, x: 1 - ssim(x_hat / 2 + 0.5, x / 2 + 0.5, data_range=1, size_average=False)
    if kind == "msssim":
        return lambda x_hat, x: 1 - ms_ssim(x_hat, x)
    features = load_vgg16(download, device)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (VGG_MEAN, VGG_STD))

    def perceptual(x_hat, x):
        seen_hat, seen = (features((pictures / 2 + 0.5 - mean) / std) for pictures in (x_hat, x))
        return F.mse_loss(seen_hat, seen, reduction="none").mean((1, 2, 3))

    return perceptual


def load_vgg16(download, device):
    """The first layers of VGG16, trained. InputError: its weights are not there."""
    from torchvision.models import VGG16_Weights, vgg16

    weights, others = VGG16_Weights.IMAGENET1K_V1, "--recovery_loss mse, ssim or msssim"
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not path.exists() and not download:
        raise InputError(f"VGG16's weights (528 MB) are not here: add --download once, or take {others}")
    try:
        network = vgg16(weights=weights, progress=False)
    except (OSError, RuntimeError) as error:
        raise InputError(f"VGG16's weights could not be fetched ({error}): take {others}") from None
    return network.features[:VGG_LAYERS].to(device).eval().requires_grad_(False)


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


def find_latents(args, gan, x, method):
    """The latents (N, L) of pictures (N, 3, S, S), by the predictor, by optimisation from the mean latent, or by both.

    InputError: there is no predictor, or the loss needs weights that are not there.
    """
    if method != "optimisation" and gan.reader is None:
        raise InputError(UNREAD)
    start = gan.latent.mean().to(x.device).expand(len(x), -1) if method == "optimisation" else gan.read(x)
    if method == "predictor":
        return start
    loss_of = recovery_loss(args.recovery_loss, args.download, x.device)
    parts = in_chunks(x)
    found = [optimise(gan.generator, gan.latent, x[part], start[part], loss_of, args.n_iter) for part in parts]
    return torch.cat([z for z, _ in found])


def recover(args):
    """The latents of photos or test pictures, by predictor, optimisation and both: errors, seconds, pictures.

    And how well the reader knows the latents of the generator's own pictures.
    """
    from pytorch_msssim import ssim

    gan = load_model(args)
    methods = [args.method] if args.method else METHODS
    if gan.reader is None and methods != ["optimisation"]:
        raise InputError(UNREAD)
    if methods != ["predictor"]:
        recovery_loss(args.recovery_loss, args.download, gan.device)  # what is missing is said at once
    images, names = load_pictures(args, gan.device)
    out = output_folder(args, place(args, "samples", run_name(args)))
    x = to_tensor(images, gan.device)
    save_pictures(out / "originals", names, images)

    table, sheet, decibels = [], {"Originals": x[:32]}, {}
    for method in methods:
        began = time.perf_counter()
        z = find_latents(args, gan, x, method)
        latents = z.cpu().numpy()  # where they are, they are done
        seconds = (time.perf_counter() - began) / len(x)
        x_hat = gan.generate(z)
        save_pictures(out / method, names, to_uint8(x_hat))
        np.save(out / f"{method}.npy", latents)
        files = [[f"{method}/{name}.png", f"originals/{name}.png"] for name in names]
        write_table(out / f"{method}.tsv", ["file", "source"], files)
        errors = (x_hat - x).square().mean((1, 2, 3))
        decibels[f"{method}_psnr"] = [f"{psnr(error):.3f}" for error in errors.tolist()]
        mse, similar = errors.mean().item(), ssim(x_hat / 2 + 0.5, x / 2 + 0.5, data_range=1).item()
        table.append([method, f"{mse / 4:.5f}", f"{psnr(mse):.2f}", f"{similar:.3f}", f"{seconds:.4f}"])
        sheet[f"{method}: {psnr(mse):.2f} dB, SSIM {similar:.3f}"] = x_hat[:32]

    title = ["method", "mse", "psnr", "ssim", "seconds_per_picture"]
    write_table(out / "table.tsv", title, table)
    write_table(out / "results.tsv", ["file", *decibels], zip(names, *decibels.values(), strict=True))
    save_sheet(out / "sheet.png", sheet)
    print(f"{len(x)} pictures, --recovery_loss {args.recovery_loss}, {args.n_iter} steps; squared error in [0, 1]")
    for row in [title, *table]:
        print("{:14}{:>10}{:>8}{:>8}{:>20}".format(*row))
    if gan.reader is not None:
        print(f"own pictures, read: {read_own(args, gan)}")
    print(f"tables, latents, pictures and sheet.png in {out}")


def read_own(args, gan, count=500):
    """How well the reader knows the latents of pictures that the generator made of `count` drawn ones, in words."""
    z = gan.latent.draw(count, torch.Generator().manual_seed(args.seed + 1)).to(gan.device)
    noise_hat, classes_hat, continuous_hat = gan.latent.parts(gan.read(gan.generate(z)))
    noise, classes, continuous = gan.latent.parts(z)
    found = []
    for number, (c_hat, c) in enumerate(zip(classes_hat, classes, strict=True)):
        right = (c_hat.argmax(1) == c.argmax(1)).float().mean().item()
        found.append(f"category {number + 1} right {right:.1%}")
    for name, ours, theirs in (("code", continuous_hat, continuous), ("noise", noise_hat, noise)):
        if theirs.shape[1]:  # a guess of 0 errs by 0.577: the deviation of what is drawn
            found.append(f"{name} error (of 0.577) {F.mse_loss(ours, theirs).sqrt().item():.3f}")
    return ", ".join(found)
