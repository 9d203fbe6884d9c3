"""--run complete: a hole in photos or test faces, filled with what the generator makes of the rest."""

import time
from pathlib import Path

import numpy as np
import torch

from common.celeba import to_tensor, to_uint8
from common.mtcnn import put_back, soft_box
from common.photos import InputError, open_image, read_image, save_pictures, write_table
from face_math.holes import MASKS, PULL, blend, make_hole
from face_math.loading import load_photos, load_pictures, results_folder
from face_math.plumbing import psnr, save_sheet
from face_math.projection import find_z, guess_hole
from face_math.trained import prepare


def read_hole(args):
    """The hole (S, S) bool that --mask names, or shows in white. InputError: a picture of another size, or no hole."""
    size = args.image_size
    if args.mask in MASKS:
        return make_hole(args.mask, size, torch.Generator().manual_seed(args.seed))
    if not Path(args.mask).is_file():
        raise InputError(f"--mask {args.mask}: expected {', '.join(MASKS)}, or a picture with the hole in white")
    picture = read_image(args.mask)
    if picture.shape[:2] != (size, size):
        raise InputError(f"--mask {args.mask} is {picture.shape[1]} x {picture.shape[0]}: expected {size} x {size}")
    with open_image(args.mask) as image:  # what is see-through in it is no hole, although it is read as white
        solid = np.array(image.convert("RGBA"))[..., 3] > 127
    hole = torch.from_numpy((picture.mean(2) > 127) & solid)
    if not hole.any() or hole.all():
        colour = "white" if hole.any() else "black"
        raise InputError(f"--mask {args.mask} is all {colour}: expected the hole in white, the rest black")
    return hole


def fill_hole(args, model, images, hole):
    """Images (N, S, S, 3) uint8 -> z, and what the hole (S, S) is filled with: name -> pictures like images.

    "filled" is the generator's face as it is; "blended" fits its colours to the surround, and to a filler's guess.
    """
    x = to_tensor(images, model.device)
    z, _ = find_z(args, model, x, hole)
    faces, inside = to_uint8(model.decode(z)), hole.numpy()
    guessed = to_uint8(guess_hole(model, x, hole))
    filled = np.where(inside[:, :, None], faces, images)
    blended = blend(faces, np.array(images), inside, guessed, PULL if model.guess else 0)
    return z, {"filled": filled, "blended": blended}


def telea(images, inside):
    """What OpenCV's cv2.inpaint fills the hole (S, S) with: pictures like images (N, S, S, 3) uint8."""
    import cv2

    mask = inside.astype(np.uint8)
    return np.stack([cv2.inpaint(picture, mask, 3, cv2.INPAINT_TELEA) for picture in np.array(images)])


def hole_error(pictures, images, inside):
    """Mean squared error (N,) in [-1, 1] of uint8 pictures (N, S, S, 3) to images, in the hole alone."""
    difference = (pictures[:, inside].astype(np.float64) - images[:, inside]) / 127.5
    return (difference**2).mean((1, 2))


def complete(args):
    """Fill a hole of photos or test faces: the pictures with the hole, filled, blended; decibels, a sheet."""
    hole = read_hole(args)
    model = prepare(args)
    if args.images:
        images, names, places = load_photos(args, model.device, args.images)
    else:
        (images, names), places = load_pictures(args, model.device), []
    out = results_folder(args)
    began = time.perf_counter()
    z, made = fill_hole(args, model, images, hole)
    seconds = (time.perf_counter() - began) / len(images)

    inside = hole.numpy()
    pictures = {"masked": images * ~inside[:, :, None], **made, "originals": images}
    for name, some in pictures.items():
        save_pictures(out / name, names, some)
    np.save(out / "z.npy", z.cpu().numpy())
    # 2: what fills the hole is taken right to its edge, and fades out beside it, where it is the photo itself; but
    # towards the sides of the square, beyond which nobody has looked, it fades out within the hole
    weight = 2 * inside * soft_box(inside.shape, 0.3)
    put_back(out / "photos", places, {"{}": made["blended"], "{}_masked": pictures["masked"]}, weight=weight)
    for name in made:
        pairs = [[f"{name}/{stem}.png", f"originals/{stem}.png"] for stem in names]
        write_table(out / f"{name}.tsv", ["file", "source"], pairs)
    save_sheet(out / "sheet.png", {name.capitalize(): to_tensor(some[:32]) for name, some in pictures.items()})

    if not inside.all():
        made["telea"] = telea(images, inside)
    errors = {name: hole_error(some, images, inside) for name, some in made.items()}
    decibels = [[f"{psnr(e):.3f}" for e in each] for each in zip(*errors.values(), strict=True)]
    rows = [[name, *each] for name, each in zip(names, decibels, strict=True)]
    write_table(out / "results.tsv", ["file", *(f"{name}_psnr" for name in errors)], rows)
    table = ", ".join(f"{name} {psnr(error.mean()):.2f} dB" for name, error in errors.items())
    print(f"{len(images)} faces, {seconds:.3f} seconds a face; in the hole: {table}: {out}")
