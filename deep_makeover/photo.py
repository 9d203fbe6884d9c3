"""--run inference: the faces of photos, GIFs and videos made over, and put back where they were."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from common.mtcnn import MTCNN, align, kind_of, paste, pick, rescale, rewrite, soft_box, warp
from common.photos import InputError, name_outputs, named_files, new_folder, write_table
from deep_makeover.loading import load_model, make_over, read_box, run_name, take
from deep_makeover.plumbing import add_to_index, next_folder, place

OUTPUTS = {  # by what the input is: what the result may be
    ".mp4": (".mp4", ".avi", ".mkv", ".mov"),
    ".gif": (".gif",),
    ".png": (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"),
}


def plausible(judge, made, autocast, scores):
    """Whether the judge's discriminator takes a makeover (1, 3, h, w) for one as good as those of validation faces.

    Its score, which joins `scores`, is then not below 99% of theirs. Of a clip the mean of all scores so far counts, so
    that the change does not come and go from frame to frame.
    """
    discriminator, least = judge
    with torch.no_grad(), autocast():
        scores.append(discriminator(made)[0, 0].item())
    return sum(scores) / len(scores) >= least


def make_over_photo(photo, model, detector, args, tally, clip=None):
    """The photo with the largest face (or all) made over, (H, W, 3) uint8; None where none was.

    model: what load_model returns; tally: a Counter of faces seen and of makeovers left out; clip: the scores of a
    clip's frames before, None where each face is judged alone.
    """
    generator, device, autocast, saved, judge = model
    box, size = read_box(saved.box, saved.scale)
    if photo.shape[:2] == size:  # a crop already, as the document has it
        matrices, weight = [np.eye(2, 3)], np.ones(size)
    else:
        (boxes,), _, (landmarks,) = detector.detect([photo])
        chosen = range(len(boxes)) if args.all_faces or len(boxes) == 0 else [pick(boxes, photo.shape, "largest")]
        tally["seen"] += len(boxes)
        matrices, weight = [rescale(align(photo, landmarks[i])[1], box, size) for i in chosen], soft_box(size)
    result = None
    for matrix in matrices:
        x, made = make_over(generator, warp(photo, matrix, size[::-1])[None], device, autocast)
        if judge and not args.keep_all and not plausible(judge, made, autocast, [] if clip is None else clip):
            tally["left out"] += 1
            continue
        old, new = (127.5 * part[0].permute(1, 2, 0).cpu().numpy() for part in (x, take(x, made, args, saved)))
        result = paste(photo if result is None else result, new, matrix, old, weight)
    return result


def plan_outputs(args):
    """[(file to read, file to write), ...]. InputError: what cannot be read or written, or must not be."""
    if bool(args.infile) == bool(args.images):
        either = "--infile, one photo, GIF or video, or --images, several"
        raise InputError(f"--run inference needs {either}{', not both' if args.infile else ''}")
    if args.images and args.outfile:
        raise InputError("the results of --images go to a folder, --out_dir; --outfile is for --infile")
    if args.infile and args.out_dir:
        raise InputError("the result of --infile is --outfile; --out_dir is for --images")
    files, _ = named_files(args.images or [args.infile])
    if args.images:
        folder = next_folder(args, place(args, "samples", run_name(args)))  # which is not made yet
        stems = name_outputs([file.name for file in files])
        return [(file, folder / f"{stem}{kind_of(file)}") for file, stem in zip(files, stems, strict=True)]
    if len(files) > 1 or Path(args.infile).is_dir():
        raise InputError(f"--infile {args.infile} is a folder: give --images and --out_dir")
    path = Path(args.outfile or f"inference_out{kind_of(files[0])}")
    check_outfile(files[0], path, args.overwrite)
    return [(files[0], path)]


def check_outfile(file, path, overwrite):
    """InputError where a result cannot, or must not, be written there."""
    types = OUTPUTS[kind_of(file)]
    if path.suffix.lower() not in types:
        raise InputError(f"--outfile {path}: for {file.name} expected a name that ends in {', '.join(types)}")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"--outfile {path}: {path.parent} is not there, or cannot be written to")
    if path.exists() and (not path.is_file() or path.samefile(file)):
        raise InputError(f"--outfile {path} is the photo itself, or no file: name another")
    if path.exists() and not overwrite:
        raise InputError(f"--outfile {path} is there already: name another, or add --overwrite")


def make_over_file(file, path, model, detector, args):
    """One photo, GIF or video. Returns what to say of it, and whether it was written."""
    # Of all faces of a clip nothing says which of them was which a frame before.
    tally, clip = Counter(), None if kind_of(file) == ".png" or args.all_faces else []
    count, changed, lost = rewrite(
        file, path, lambda _, photo: make_over_photo(photo, model, detector, args, tally, clip), args.side_by_side
    )
    one = "1 of the makeovers is" if changed else "the makeover is"
    left = one if tally["left out"] == 1 else f"{tally['left out']} makeovers are"
    left += " left out: the discriminator scores 99% of validation makeovers higher (--keep_all takes it all the same)"
    several = count == 1 and tally["seen"] > 1 and not args.all_faces
    made = f"the largest of {tally['seen']} faces made over (--all_faces takes all)" if several else "made over"
    told = [f"a face made over in {changed} of {count} frames" if count > 1 else made] if changed else []
    told += [left] * bool(tally["left out"]) + [f"not kept of {file}: {'; '.join(lost)}"] * bool(changed and lost)
    return "; ".join(told) or "no face found" + (f" in {count} frames" if count > 1 else ""), changed > 0


def inference(args):
    """Make over the faces of photos, GIFs and videos, and put them back where they were."""
    plan = plan_outputs(args)
    model = load_model(args)
    detector, done, told, rows = MTCNN(model[1]), 0, "", []
    if args.images:
        new_folder(plan[0][1].parent, args.overwrite)
    for file, path in plan:
        try:
            told, written = make_over_file(file, path, model, detector, args)
        except InputError as error:
            told, written = str(error).removeprefix(f"{file}: "), False
        done += written
        if written:
            rows.append((path.name, file))
            print(f"{path}: {told}")
        elif len(plan) > 1:
            print(f"skipped {file}: {told}")
    if not done:
        if args.images and not any((folder := plan[0][1].parent).iterdir()):
            folder.rmdir()
        raise InputError(f"{plan[0][0]}: {told}" if len(plan) == 1 else f"none of {len(plan)} files: the last, {told}")
    if args.images:
        if not args.out_dir:
            add_to_index(args, plan[0][1].parent.parent, plan[0][1].parent.name)
        write_table(plan[0][1].parent / "manifest.tsv", ("file", "source"), rows)
