"""--run sample and --run vary: drawn pictures, and the document's grids: noise held, the code varied."""

import numpy as np
import torch
import torch.nn.functional as F

from common.celeba import to_tensor, to_uint8
from common.photos import InputError, save_pictures, write_table
from dapgan.gan import diversity, face_distance
from dapgan.loading import load_model, load_pictures, run_name
from dapgan.plumbing import in_chunks, output_folder, place, psnr, save_sheet
from dapgan.recover import find_latents


def code_grid(latent, start, points):
    """Latents for the document's grids, and what varies in each line: every part of the code, all else held.

    start: (N, L). Each continuous number takes `points` values from -1 to 1, each one-hot component all its classes.
    Returns latents (N * lines' lengths, L), face by face, and a list of (name, length) of a face's lines.
    """
    lines, titles = [], []
    first = latent.noise
    for number, classes in enumerate(latent.categorical):
        line = start[:, None].repeat(1, classes, 1)
        line[:, :, first : first + classes] = torch.eye(classes).to(start)
        lines, titles, first = [*lines, line], [*titles, (f"category_{number + 1}", classes)], first + classes
    for number in range(latent.continuous):
        line = start[:, None].repeat(1, points, 1)
        line[:, :, first + number] = torch.linspace(-1, 1, points).to(start)
        lines, titles = [*lines, line], [*titles, (f"code_{number + 1}", points)]
    return torch.cat(lines, 1).flatten(0, 1), titles


def draw_sheet(journal, gan, fixed, x_real, faces):
    """A training's sheet: what the GAN draws of fixed latents, its code varied, and real pictures x_real made anew.

    Returns how far the drawn pictures are from the real ones; says so if they are nearly all the same. Of digits, which
    nobody reads faces in, the newest that have not collapsed are the nearest.
    """
    x_fake = gan.generate(fixed)
    spread = diversity(x_fake, x_real)
    newest = -float(journal.step) if spread >= 0.5 else float("inf")
    distance = face_distance(x_fake, x_real) if faces else newest
    if spread < 0.5:
        same = f"diversity {spread:.2f}: the generated pictures are nearly all the same"
        journal.bar.write(f"step {journal.step}: {same}")
    journal.scalar("diversity", spread)
    if faces:
        journal.scalar("face_distance", distance)
    sheet = {f"step {journal.step}, diversity {spread:.2f}": x_fake[:64]}
    if gan.latent.code_size:
        sheet["The code varied, noise fixed"] = gan.generate(code_grid(gan.latent, fixed[:1], 16)[0])
    if gan.reader is not None:
        x_hat = gan.generate(gan.read(x_real))
        mse = F.mse_loss(x_hat, x_real).item()
        journal.scalar("validation/rec", mse)
        sheet |= {"Real": x_real[:16], f"Read and made anew, {psnr(mse):.2f} dB": x_hat[:16]}
    journal.sheet(sheet)
    return distance


def sample(args):
    """Pictures of --count random latents: single pictures, latents.npy, a sheet."""
    gan = load_model(args)
    out = output_folder(args, place(args, "samples", run_name(args)))
    z = gan.latent.draw(args.count, torch.Generator().manual_seed(args.seed)).to(gan.device)
    images = np.concatenate([to_uint8(gan.generate(z[part])) for part in in_chunks(z)])
    save_pictures(out / "pictures", [f"{i:06d}" for i in range(args.count)], images)
    np.save(out / "latents.npy", z.cpu().numpy())
    save_sheet(out / "sheet.png", {f"drawn of random latents, seed {args.seed}": to_tensor(images[:64])})
    print(f"{args.count} pictures, latents.npy and sheet.png in {out}")


def vary(args):
    """The document's grids: noise held, each part of the code varied, for random latents or for given pictures.

    One sheet for each part of the code, a line for each face; where the code has categories, also a sheet with a line
    for each category for each continuous number.
    """
    gan = load_model(args)
    if not gan.latent.code_size:
        raise InputError("--run vary needs a code: --model began has none")
    if args.images:
        images, names = load_pictures(args, gan.device)
        x = to_tensor(images, gan.device)
        z = find_latents(args, gan, x, args.method or "both")
        head = torch.stack([x, gan.generate(z)], 1)  # before the varied ones: the picture, and what G makes of it
    else:
        z = gan.latent.draw(args.count, torch.Generator().manual_seed(args.seed)).to(gan.device)
        names = [f"random_{i:03d}" for i in range(len(z))]
        head = z.new_zeros(len(z), 0, 3, gan.flags.image_size, gan.flags.image_size)
    out = output_folder(args, place(args, "samples", run_name(args)))

    grid, titles = code_grid(gan.latent, z, args.points)
    pictures = gan.generate(grid).unflatten(0, (len(z), -1))  # (N, of all lines, 3, S, S)
    begin, rows = 0, []
    for title, length in titles:
        line = pictures[:, begin : begin + length]
        shown = torch.cat([head, line], 1)[:32]
        caption = ("the picture, made anew, " if args.images else "") + f"{title} varied"
        save_sheet(out / f"{title}.png", {caption: shown.flatten(0, 1)}, columns=shown.shape[1])
        for name, varied in zip(names, line, strict=True):
            files = [f"{title}/{name}_{number:02d}" for number in range(length)]
            save_pictures(out, files, to_uint8(varied))
            rows += [[f"{file}.png", f"{title}/{name}"] for file in files]
        begin += length
    if gan.latent.categorical:
        save_categories(out, gan, z[0], args.points)
    write_table(out / "manifest.tsv", ["file", "path"], rows)
    np.save(out / "latents.npy", z.cpu().numpy())
    print(f"{len(rows)} pictures, a sheet for each of {', '.join(title for title, _ in titles)} in {out}")


def save_categories(out, gan, z, points):
    """The document's figures: the first component's categories down, a number of the code across; z (L,): the rest."""
    latent, classes = gan.latent, gan.latent.categorical[0]
    each = z.repeat(classes, 1)
    each[:, latent.noise : latent.noise + classes] = torch.eye(classes).to(z)
    each[:, latent.size - latent.continuous :] = 0
    pictures = gan.generate(code_grid(latent, each, points)[0]).unflatten(0, (classes, -1))
    for number in range(latent.continuous):
        begin = sum(latent.categorical) + number * points
        lines = pictures[:, begin : begin + points]
        save_sheet(
            out / f"categories_by_code_{number + 1}.png",
            {f"down: category, across: code {number + 1}": lines.flatten(0, 1)},
            columns=points,
        )
