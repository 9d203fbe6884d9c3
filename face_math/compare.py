"""--run compare: the document's questions in numbers, for GAN projection, GAN with an inverse encoder, and VAE."""

import argparse
import math
import time
from functools import partial

import torch
import torch.nn.functional as F

from common.celeba import attribute_indices, to_tensor, to_uint8
from common.photos import save_pictures, write_table
from face_math.arithmetic import labelled_vectors
from face_math.loading import load_pictures, load_records, results_folder, training_faces, training_rows
from face_math.model import between, components
from face_math.plumbing import need_data, psnr, save_sheet
from face_math.projection import SEARCHES, find_z
from face_math.trained import load_vae, prepare


def compare(args):
    """GAN projection, GAN with an inverse encoder, VAE; beside mean face and PCA.

    For each, on the test faces or --images: reconstructions, edits at the last of --strengths, interpolations, and a
    manifest of each for benchmarks/quality.py; one table (table.tsv) and one picture (sheet.png).
    """
    need_data(args, "vectors and principal components are those of its training faces")
    args.start = "encoder"
    gan = prepare(args)
    vae = load_vae(args, gan.device, gan.autocast)
    records = load_records(args, gan.device)
    images, names = load_pictures(args, gan.device)
    out = results_folder(args)
    x = to_tensor(images, gan.device)
    save_pictures(out / "originals", names, images)

    def search_as(recipe, **changes):
        return find_z(argparse.Namespace(**vars(args) | SEARCHES[recipe] | changes), gan, x)[0]

    vectors, vae_vectors = (labelled_vectors(args, model, records) for model in (gan, vae))
    methods = {  # how a face becomes z, what makes a face of it, the vectors
        "GAN, projection": (partial(search_as, "document", n_iter=args.n_iter), gan, vectors),
        "GAN, encoder alone": (partial(search_as, "best", n_iter=0), gan, vectors),
        "GAN, encoder and search": (partial(search_as, "best"), gan, vectors),
        "VAE": (partial(vae.encode, x), vae, vae_vectors),
    }
    linear = linear_reconstructions(training_faces(records, training_rows(args, records)), x)
    table = [[name, *scores(x_hat, x), ""] for name, x_hat in linear.items()]
    sheet, labels = {"Real": x[:16]}, labels_of(args, records, names)
    for name, (to_z, model, vectors) in methods.items():
        began = time.perf_counter()
        z = to_z()
        z.cpu()  # where it is, it is done
        seconds = (time.perf_counter() - began) / len(x)
        x_hat, folder = model.decode(z), out / name.replace(", ", "_").replace(" ", "_").lower()
        table.append([name, *scores(x_hat, x), f"{seconds:.4f}"])
        save_pictures(folder / "reconstructions", names, to_uint8(x_hat))
        pairs = [[f"reconstructions/{stem}.png", f"../originals/{stem}.png"] for stem in names]
        write_table(folder / "reconstructions.tsv", ["file", "source"], pairs)
        rows = {f"reconstructed, {table[-1][2]} dB": x_hat[:16]}
        rows |= edit(model, z, names, vectors, labels, args.strengths[-1], folder) | walk(model, z, folder)
        sheet |= {f"{name}: {label}": pictures for label, pictures in rows.items()}
    write_table(out / "table.tsv", ["method", "mse", "psnr", "ssim", "seconds_per_face"], table)
    save_sheet(out / "sheet.png", sheet)
    print(f"{len(x)} faces; squared error in [0, 1]")
    for row in [["", "MSE", "PSNR", "SSIM", "seconds a face"], *table]:
        print("{:28}{:>10}{:>8}{:>8}{:>16}".format(*row))
    print(f"table.tsv, sheet.png, pictures and manifests in {out}")


def edit(model, z, names, vectors, labels, strength, folder):
    """Each attribute's vector added or taken away: pictures and edits.tsv in the folder. Returns rows of a sheet."""
    limit = 1 if model.discriminator else math.inf  # a VAE's z has no bounds
    rows, sheet = [], {}
    for attribute, vector in vectors.items():
        # Towards what the face has not; without labels, towards having it.
        sign = 1 - 2 * labels[attribute].to(z) if attribute in labels else torch.ones(len(z)).to(z)
        pictures = model.decode((z + strength * sign[:, None] * vector.to(z)).clamp(-limit, limit))
        files = [f"{attribute}_{stem}" for stem in names]
        save_pictures(folder / "edits", files, to_uint8(pictures))
        if attribute != "Turn":
            for file, stem, to in zip(files, names, sign.tolist(), strict=True):
                rows.append([f"edits/{file}.png", f"reconstructions/{stem}.png", f"{attribute}={int(to > 0)}"])
        sheet[f"{attribute} changed"] = pictures[:16]
    write_table(folder / "edits.tsv", ["file", "source", "request"], rows)
    return sheet


def walk(model, z, folder):
    """The way from each other face to the next: pictures, interpolations.tsv in the folder. Returns a sheet's row."""
    share = torch.linspace(0, 1, 16, device=z.device)[:, None]
    way = between if model.discriminator else torch.lerp  # a VAE's z are drawn about 0, where a GAN's are not
    rows, sheet = [], {}
    for pair in range(min(16, len(z) // 2)):
        line = model.decode(way(z[2 * pair], z[2 * pair + 1], share))
        files = [f"{pair:02d}_{frame:02d}" for frame in range(16)]
        save_pictures(folder / "interpolations", files, to_uint8(line))
        rows += [[f"interpolations/{file}.png", pair] for file in files]
        sheet = sheet or {"interpolated": line}
    write_table(folder / "interpolations.tsv", ["file", "path"], rows)
    return sheet


def linear_reconstructions(faces, x, counts=(32, 64, 100)):
    """Name -> pictures like x (N, 3, S, S): the mean of faces (M, 3 S S), and x by their first components."""
    mean, axes = components(faces, max(counts))
    flat = x.cpu().flatten(1)
    made = {"mean face": mean.expand(len(x), -1)}
    for count in counts:
        made[f"PCA, {count} numbers"] = mean + (flat - mean) @ axes[:count].T @ axes[:count]
    return {name: pictures.unflatten(1, x.shape[1:]).clamp(-1, 1).to(x.device) for name, pictures in made.items()}


def labels_of(args, records, names):
    """Attribute -> (N,) bool of the test faces that load_pictures gave; nothing for a person's own photos."""
    if args.images or records.attributes is None:
        return {}
    wanted = [name for name in args.attributes if name != "Turn"]
    table = records.attributes[records.rows("test")[: len(names)]][:, attribute_indices(wanted)]
    return dict(zip(wanted, torch.from_numpy(table > 0).T, strict=True))


def scores(x_hat, x):
    """MSE in [0, 1], PSNR of the mean MSE, SSIM, as texts."""
    from pytorch_msssim import ssim

    error = F.mse_loss(x_hat, x).item()
    similar = ssim(x_hat / 2 + 0.5, x / 2 + 0.5, data_range=1).item()
    return f"{error / 4:.5f}", f"{psnr(error):.2f}", f"{similar:.3f}"
