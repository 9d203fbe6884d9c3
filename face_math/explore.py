"""The verbs that look around in z: sample, project, interpolate, average."""

import time

import numpy as np
import torch

from common.celeba import to_tensor, to_uint8
from common.photos import InputError, save_pictures, write_film, write_table
from face_math.loading import load_pictures, results_folder
from face_math.model import as_long_as_fits, between, draw_z
from face_math.plumbing import in_chunks, psnr, save_sheet, setup
from face_math.projection import embed, find_z
from face_math.trained import load_model, prepare


def sample(args):
    """Faces of --count random z: single pictures, z.npy, a sheet."""
    device, autocast, *_ = setup(args)
    model = load_model(args, device, autocast)
    out = results_folder(args)
    z = draw_z(args.count, args.z_size, torch.Generator().manual_seed(args.seed)).to(device)
    images = np.concatenate([to_uint8(model.decode(z[part])) for part in in_chunks(z)])
    save_pictures(out / "faces", [f"{i:06d}" for i in range(args.count)], images)
    np.save(out / "z.npy", z.cpu().numpy())
    save_sheet(out / "sheet.png", {f"drawn of random z, seed {args.seed}": to_tensor(images[:64])})
    print(f"{args.count} faces, z.npy and sheet.png in {out}")


def project(args):
    """The z of photos or test faces: originals, projections every few steps, z files, the average, a manifest."""
    model = prepare(args)
    images, names = load_pictures(args, model.device)
    out = results_folder(args)
    x = to_tensor(images, model.device)
    every, steps = args.sample_every or max(1, args.n_iter // 10), {}

    def watch(step, z):
        if step % every == 0 or step == args.n_iter:
            steps[step] = z

    began = time.perf_counter()
    z, losses = find_z(args, model, x, watch=watch)
    codes = z.cpu().numpy()  # where they are, they are done
    seconds = (time.perf_counter() - began) / len(x)

    x_hat = model.decode(z)
    save_pictures(out / "originals", names, images)
    save_pictures(out / "projections", names, to_uint8(x_hat))
    (out / "z").mkdir(exist_ok=True)
    for name, code in zip(names, codes, strict=True):
        np.save(out / "z" / f"{name}.npy", code)
    np.save(out / "z.npy", codes)
    save_average(out, model, z)
    for step, kept in steps.items():  # of the first 64 pictures' first search
        save_sheet(out / "steps" / f"{step:07d}.png", {f"step {step}": model.decode(kept)})
    save_sheet(out / "sheet.png", {"Originals": x[:64], "Projections": x_hat[:64]})

    errors = (x_hat - x).square().mean((1, 2, 3)).tolist()
    pairs = [[f"projections/{name}.png", f"originals/{name}.png"] for name in names]
    write_table(out / "manifest.tsv", ["file", "source"], pairs)
    shown = sorted({*range(0, args.n_iter + 1, every), args.n_iter})
    curves = [[f"{loss:.6g}" for loss in curve] for curve in losses[shown].T.tolist()]
    write_table(out / "losses.tsv", ["file", *shown], [[name, *c] for name, c in zip(names, curves, strict=True)])
    results = [[name, f"{error:.6g}", f"{psnr(error):.3f}"] for name, error in zip(names, errors, strict=True)]
    write_table(out / "results.tsv", ["file", "mse", "psnr"], results)
    error = np.mean(errors)
    quality = f"MSE {error / 4:.5f} in [0, 1], {psnr(error):.2f} dB"
    print(f"{len(x)} faces, {args.n_iter} steps, {seconds:.3f} seconds a face, {quality}: {out}")


def save_average(folder, model, z):
    """The mean of z, halfway as long as these are on average, and its face, which is returned: (1, 3, S, S)."""
    mean = as_long_as_fits(z.mean(0, keepdim=True), z.norm(dim=1).mean())
    picture = model.decode(mean)
    np.save(folder / "average.npy", mean.cpu().numpy())
    save_pictures(folder, ["average"], to_uint8(picture))
    return picture


def interpolate(args):
    """From photo to photo, or z file to z file: --frames pictures on the way, a GIF and a video."""
    model = prepare(args)
    z, names, _ = embed(args, model, args.images)
    if len(z) < 2:
        raise InputError(f"--run interpolate needs two faces at least; there is one: {names[0]}")
    out = results_folder(args)
    share = torch.linspace(0, 1, args.frames, device=z.device)[:, None]
    lines = [between(a, b, share) for a, b in zip(z, z[1:], strict=False)]
    films, rows, sheet = [], [], {}
    for number, line in enumerate(lines):
        films.append(to_uint8(model.decode(line)))
        files = [f"{number:03d}_{frame:04d}" for frame in range(args.frames)]
        save_pictures(out, files, films[-1])
        rows += [[f"{file}.png", number] for file in files]
        some = films[-1][:: max(1, args.frames // 16)][:16]
        sheet[f"{names[number]} to {names[number + 1]}"] = to_tensor(some)
    write_table(out / "manifest.tsv", ["file", "path"], rows)
    np.save(out / "z.npy", torch.cat(lines).cpu().numpy())
    write_film(out / "interpolation", np.concatenate(films))
    save_sheet(out / "sheet.png", sheet)
    print(f"{len(rows)} pictures, interpolation.gif and interpolation.mp4 in {out}")


def average(args):
    """The mean face of many pictures, of one person or kind: their mean z, decoded."""
    model = prepare(args)
    z, names, _ = embed(args, model, args.images)
    out = results_folder(args)
    picture = save_average(out, model, z)
    np.save(out / "z.npy", z.cpu().numpy())
    save_sheet(out / "sheet.png", {"Projections": model.decode(z[:64]), "Average": picture})
    print(f"the average of {len(z)} faces, {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}: {out}")
