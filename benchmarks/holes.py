"""A hole in test faces, filled by face_math's generator and by what it has to beat: decibels in the hole, and pictures.

    python benchmarks/holes.py --dataset_dir data/celeba --image_size 64 --out_dir /tmp/holes
It takes the flags of `python face_math/main.py --run complete`, with --recipe best unless another is given: what the
filler makes, or with --start encoder what encoder and search make. The mean face and the linear prediction (ridge
regression on 300 principal components of the surround) are fitted on the training faces in the same run; Telea is
cv2.inpaint. The pictures of each method lie in a folder of --out_dir with a manifest, so that benchmarks/quality.py can
say how real they look (decibels reward blur).
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.celeba import to_tensor, to_uint8
from common.photos import InputError, run_script, save_pictures, write_table
from face_math.complete import fill_hole, hole_error, read_hole, telea
from face_math.loading import load_pictures, load_records, results_folder, training_faces, training_rows
from face_math.main import parse_args
from face_math.model import components
from face_math.plumbing import psnr, save_sheet
from face_math.trained import prepare


def fill_linearly(faces, x, hole, count=300):
    """Pictures x (N, 3, S, S) with the hole (S, S) predicted from faces (M, 3 S S): by their mean, and by ridge
    regression on the first principal components of what surrounds it. Returns name -> pictures."""
    inside, flat = hole.expand(3, -1, -1).flatten(), x.cpu().flatten(1)
    around, within = faces[:, ~inside], faces[:, inside]
    mean, axes = components(around, count)
    codes = (around - mean) @ axes.T
    penalty = codes.square().mean() * 10 * torch.eye(codes.shape[1])
    weights = torch.linalg.solve(codes.T @ codes + penalty, codes.T @ (within - within.mean(0)))
    predicted = within.mean(0) + (flat[:, ~inside] - mean) @ axes.T @ weights
    pictures = {}
    for name, values in {"mean face": within.mean(0).expand(len(x), -1), "linear prediction": predicted}.items():
        filled = flat.clone()
        filled[:, inside] = values.clamp(-1, 1)
        pictures[name] = filled.unflatten(1, x.shape[1:])
    return pictures


def main(argv=None):
    """Fill the hole in every way and print the table; returns its rows: (method, decibels)."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(["--run", "complete", "--recipe", "best", "--search", "best", *argv])
    hole = read_hole(args)
    inside = hole.numpy()
    if inside.all():
        raise InputError("--mask full leaves nothing to fill from: take another")
    model = prepare(args)
    records = load_records(args, model.device)
    images, names = load_pictures(args, model.device)
    out, x = results_folder(args), to_tensor(images, model.device)

    linear = fill_linearly(training_faces(records, training_rows(args, records)), x, hole)
    made = {name: to_uint8(pictures) for name, pictures in linear.items()} | {"Telea": telea(images, inside)}
    _, filled = fill_hole(args, model, images, hole)
    made |= {"GAN": filled["filled"], "GAN, blended": filled["blended"]}

    save_pictures(out / "originals", names, images)
    pairs = [[f"{stem}.png", f"../originals/{stem}.png"] for stem in names]
    table = []
    for name, pictures in made.items():
        pictures = np.where(inside[:, :, None], pictures, images)
        table.append((name, psnr(hole_error(pictures, images, inside).mean())))
        folder = out / name.replace(", ", "_").replace(" ", "_").lower()
        save_pictures(folder, names, pictures)
        write_table(folder / "manifest.tsv", ["file", "source"], pairs)
    save_sheet(out / "sheet.png", {name: to_tensor(pictures[:16]) for name, pictures in made.items()})
    print(f"{len(images)} faces, {args.n_iter} steps of the search; decibels in the hole")
    for name, decibels in table:
        print(f"{name:20}{decibels:8.2f}")
    return table


if __name__ == "__main__":
    run_script(main)
