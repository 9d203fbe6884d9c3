"""What face_math looks at while it trains: numbers and a sheet of faces, and whether they are the best so far.

Each returns what is kept with the model.
"""

import torch.nn.functional as F

from face_math.gan import diversity, face_distance, score
from face_math.loading import generate, repeat
from face_math.plumbing import psnr


def show_drawn(journal, networks, x, z, autocast):
    """The GAN: faces drawn of z beside validation faces x (N, 3, S, S), which are repeated if there is an encoder."""
    x_fake = generate(networks["generator"], z, autocast)
    spread, distance = diversity(x_fake, x), face_distance(x_fake, x)
    journal.keep_if_best(score(distance))
    if spread < 0.5:
        journal.bar.write(f"step {journal.step}: diversity {spread:.2f}: the generated faces are nearly all the same")
    journal.scalar("diversity", spread)
    journal.scalar("face_distance", distance)
    rows = {f"step {journal.step}, diversity {spread:.2f}, distance {distance:.4g}": x_fake[:64]}
    if "encoder" in networks:
        x_hat = repeat(networks["generator"], networks["encoder"], x, autocast)
        journal.scalar("validation/rec", F.mse_loss(x_hat, x).item())
        rows |= {"Real": x[:16], "Reconstructed": x_hat[:16]}
    journal.sheet(rows)
    return dict(distance=distance)


def show_repeated(journal, x, x_hat, rows):
    """An encoder or VAE: validation faces x (N, 3, S, S) as they are repeated, and further rows of the sheet."""
    error = F.mse_loss(x_hat, x).item()
    journal.keep_if_best(error)
    journal.scalar("validation/rec", error)
    journal.sheet({"Real": x[:32], f"Reconstructed, {psnr(error):.1f} dB": x_hat[:32], **rows})
    return dict(mse=error)


def show_filled(journal, x, guessed, x_hat, hole):
    """A filler: validation faces x (N, 3, S, S), as the linear guess and the filler fill their centre hole (S, S)."""
    error, distance = F.mse_loss(x_hat[..., hole], x[..., hole]).item(), face_distance(x_hat, x)
    journal.keep_if_best(distance)
    journal.scalar("face_distance", distance)
    journal.scalar("validation/rec", error)
    journal.sheet({"Real": x[:32], "Guessed": guessed[:32], f"Filled, {psnr(error):.1f} dB": x_hat[:32]})
    return dict(mse=error, distance=distance)
