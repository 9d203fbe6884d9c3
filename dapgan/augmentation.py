"""--run augment: varied pictures from a few: a latent is moved, and what is then drawn otherwise is added to the photo.

The purpose of the DAPGAN document. Pictures x are (N, 3, S, S) in [-1, 1] at their place in CelebA's geometry; a latent
is (N, L). The networks come in as functions: encode(x) -> latent, generate(latent) -> x, constrain(latent) -> a latent
that may be drawn. What else is known of faces comes from pictures without labels.
"""

import math
from collections import Counter
from typing import NamedTuple

import torch
import torch.nn.functional as F

from common.celeba import SQUARE, face_weights, subset, to_tensor, to_uint8
from common.photos import InputError, save_pictures, write_table
from dapgan.faces import (
    LEARNED,
    AttributeReader,
    FaceMiddle,
    LinearFaces,
    changed,
    chunks,
    restored,
    share_below,
    shuffled,
)
from dapgan.loading import load_pictures, load_reader, load_records, run_name
from dapgan.plumbing import need_data, output_folder, place, save_sheet, unpacked

TRIES = 10  # pictures made for each one wanted before the gates are said to be too strict
FEWEST, MOST = 60, 7000  # training faces, without labels, that are needed at least and taken at most


class Unlabelled:
    """What is to be known of unlabelled faces x before a person's pictures are varied: worked out once for all people.

    root (L, L): a square root of the covariance of their latents; normal numbers times it deviate as these do. looks
    (N, K): directions of FaceMiddle's features, by whose cosine faces are compared; odd (N,): by LinearFaces.
    """

    def __init__(self, x, encode):
        self.middle, self.linear = FaceMiddle(x), LinearFaces(x)
        latents = chunks(encode, x[shuffled(x, 0)[:LEARNED]])
        values, vectors = torch.linalg.eigh(torch.cov(latents.T, correction=0))
        self.root = vectors * values.clamp(min=0).sqrt()
        self.looks, self.odd = self.look(x), chunks(self.linear.oddness, x)

    def look(self, x):
        return F.normalize(self.middle.features(x) * self.middle.gain.sqrt(), dim=1)

    def numbers(self):
        """Name -> tensor or dict of such: statistics and embeddings, no pictures."""
        return {name: x if torch.is_tensor(x) else vars(x) for name, x in vars(self).items()}

    @classmethod
    def restore(cls, numbers, device):
        """What had these numbers(), in half precision or packed, or not."""
        known = cls.__new__(cls)
        known.middle = restored(FaceMiddle, numbers["middle"], device)
        known.linear = restored(LinearFaces, numbers["linear"], device)
        known.root, known.looks, known.odd = (unpacked(numbers[name]).to(device) for name in ("root", "looks", "odd"))
        return known


class Varied(NamedTuple):
    """What augment_person() makes."""

    pictures: torch.Tensor  # (count or, after TRIES for each, fewer, 3, S, S)
    rows: list  # a dict each: source, an index of x; mirrored; latent, step (L,); identity, quality
    rejected: Counter  # reason -> how many


def augment_person(
    x,
    faces,
    encode,
    generate,
    constrain,
    count,
    strength=0.35,
    face_strength=0.2,
    min_identity=0.95,
    min_quality=0.01,
    seed=0,
):
    """Vary a few pictures x (N, 3, S, S) of one person, or of one class, into `count` more.

    faces: Unlabelled, of other faces. Each picture made is one of x, every other time mirrored, changed by a random
    step in the latent: `strength` times what latents of unlabelled faces deviate from their mean, along what they
    deviate together. Of what that changes, face_strength times is taken on the face itself, by which a person is known,
    all of it in the hair, the light and the background around. Kept if both gates agree: identity, the share of
    unlabelled faces that are less like the picture of x that is most alike; quality, the share of unlabelled faces that
    are odder. 0 for a gate turns it off.
    """
    random = torch.Generator(x.device).manual_seed(seed)
    both = torch.cat([x, x.flip(3)])
    z, own = chunks(encode, both), faces.look(x)
    strangers = (faces.looks @ own.T).max(1).values
    weights = face_weights(x.shape[2:], SQUARE, face_strength, 1, device=x.device)
    pictures, rows, rejected = [], [], Counter()
    for begin in range(0, TRIES * count, 64):
        if len(rows) == count:
            break
        number = begin + torch.arange(64, device=x.device)
        source = number % len(x) + len(x) * (number // len(x) % 2)  # all of x, all of x mirrored, all of x ...
        noise = torch.randn(64, len(faces.root), generator=random, device=x.device)
        z_new = constrain(z[source] + strength * noise @ faces.root.T)
        made = changed(both[source], chunks(generate, z[source]), chunks(generate, z_new), weights)
        identities = share_below((faces.look(made) @ own.T).max(1).values, strangers).tolist()
        qualities = (1 - share_below(faces.linear.oddness(made), faces.odd)).tolist()
        for i, (which, identity, quality) in enumerate(zip(source.tolist(), identities, qualities, strict=True)):
            if len(rows) == count:
                break
            if identity < min_identity:
                rejected["another person"] += 1
            elif quality < min_quality:
                rejected["not like a face"] += 1
            else:
                pictures.append(made[i])
                row = dict(source=which % len(x), mirrored=which >= len(x), identity=identity, quality=quality)
                rows.append(row | dict(latent=z_new[i], step=(z_new - z[source])[i]))
    return Varied(torch.stack(pictures) if rows else x[:0], rows, rejected)


def vary_person(args, gan, known, x):
    """What augment_person() makes of pictures x with this GAN, as the flags say."""
    how = {name: getattr(args, name) for name in ("strength", "face_strength", "min_identity", "min_quality", "seed")}
    return augment_person(x, known, gan.read, gan.generate, gan.latent.constrain, args.count, **how)


def unlabelled_faces(args, device):
    """Records, rows of training faces, at most MOST, and those faces (N, 3, S, S). InputError: fewer than FEWEST."""
    need_data(args, "its faces, without labels, are what is known of faces")
    records = load_records(args, device)
    rows = subset(records.rows("train"), MOST, args.seed)
    if len(rows) < FEWEST:
        raise InputError(f"{args.dataset_dir} has {len(rows)} training faces; {FEWEST} are needed, without labels")
    return records, rows, to_tensor(records.images[rows], device)


def know_faces(args, gan):
    """What is known of unlabelled faces, the reader of attributes or None, and how well it reads each: of the data set,
    without one what the model brings along.
    """
    if args.dataset_dir is None and gan.faces:
        known = Unlabelled.restore(gan.faces, gan.device)
        if "weights" not in gan.faces:
            return known, None, {}
        weights = gan.faces["weights"].float().to(gan.device)
        reader = AttributeReader.restore(gan.faces["names"], weights, known.middle, known.linear)
        return known, reader, gan.faces["accuracy"]
    records, rows, x = unlabelled_faces(args, gan.device)
    known = Unlabelled(x, gan.read)
    if records.attributes is None:
        return known, None, {}
    reader = AttributeReader(x, records.attributes[rows], known.middle, known.linear)
    others = records.rows("validation")
    x_others = to_tensor(records.images[others], gan.device)
    return known, reader, reader.accuracy(x_others, records.attributes[others])


def augment(args):
    """From a few pictures of one person, or of one class, --count varied ones: pictures, manifest, what varied.

    Each is one of the given pictures with what a random step in its latent changes; the gates, which know faces without
    labels only, refuse what has become another person or no face. The folder of the given pictures is left alone.
    """
    if not args.images:
        raise InputError("--run augment needs --images: the pictures to vary")
    gan = load_reader(args)
    images, names = load_pictures(args, gan.device)
    known, reader, accuracy = know_faces(args, gan)
    x = to_tensor(images, gan.device)
    made = vary_person(args, gan, known, x)
    refused = ", ".join(f"{count} refused as {reason}" for reason, count in made.rejected.items()) or "none refused"
    if not made.rows:
        raise InputError(f"nothing passed the gates ({refused}): lower --strength, --min_identity or --min_quality")
    out = output_folder(args, place(args, "samples", run_name(args)))
    save_pictures(out / "originals", names, images)
    save_varied(out, made, names, gan.latent.noise)
    write_table(out / "rejected.tsv", ["reason", "pictures"], made.rejected.items())
    save_sheet(out / "sheet.png", {"Originals": x[:16], "Varied": made.pictures[:64]})
    few = f"only {len(made.rows)} of {args.count}: " if len(made.rows) < args.count else ""
    print(f"{few}{len(made.rows)} varied pictures of {len(x)}; {refused}")
    if reader is None:
        print("no attributes in this data set: what varied is not read")
    else:
        varied = reader.varied(made.pictures, x[[row["source"] for row in made.rows]])
        table = [[name, *map("{:.3f}".format, (*varied[name], accuracy.get(name, math.nan)))] for name in varied]
        write_table(out / "varied.tsv", ["attribute", "read_otherwise", "deviation", "reader_accuracy"], table)
        print("read otherwise than in the original:", ", ".join(f"{name} {v[0]:.0%}" for name, v in varied.items()))
        print("eye colour is not annotated in CelebA, so it is not read")
    print(f"pictures, manifest.tsv and tables in {out}")


def save_varied(out, made, names, noise):
    """Write varied pictures and their manifest; names: of what they were made of; noise: how much of a latent that is.

    The manifest has the step in the code, and the whole latent, for each.
    """
    files, table = [f"{i:04d}_{names[row['source']]}" for i, row in enumerate(made.rows)], []
    save_pictures(out / "pictures", files, to_uint8(made.pictures))
    for file, row in zip(files, made.rows, strict=True):
        code, latent = (",".join(map("{:.3f}".format, z.tolist())) for z in (row["step"][noise:], row["latent"]))
        gates = [int(row["mirrored"]), f"{row['identity']:.3f}", f"{row['quality']:.3f}"]
        table.append([f"pictures/{file}.png", f"originals/{names[row['source']]}.png", *gates, code, latent])
    write_table(out / "manifest.tsv", ["file", "source", "mirrored", "identity", "quality", "code", "latent"], table)
