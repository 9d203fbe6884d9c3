"""--run inference: the faces of photos, GIFs and videos made over, and put back where they were."""

import os
from pathlib import Path

import cv2
import numpy as np

from common.mtcnn import MTCNN, align, pick, warp
from common.photos import VIDEO_TYPES, InputError, Writer, media_files, name_outputs, numbered_frames
from deep_makeover.loading import load_model, make_over, read_box

OUTPUTS = {  # by what the input is: what the result may be
    ".mp4": (".mp4", ".avi", ".mkv", ".mov"),
    ".gif": (".gif",),
    ".png": (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"),
}


def soft_mask(size, share=0.2):
    """(height, width) weights of a changed face: 1 inside, falling smoothly to 0 over that share of each side."""
    lines = [np.minimum(np.arange(n), np.arange(n)[::-1]) / (n * share) for n in size]
    lines = [(1 - np.cos(np.pi * line.clip(0, 1))) / 2 for line in lines]
    return np.outer(*lines).astype(np.float32)


def blend(photo, change, matrix, strength):
    """Add the change of a face, (h, w, 3) float, to a photo where it belongs; a new (H, W, 3) uint8 picture.

    matrix: from pixels of the photo to those of the face. The change fades out towards the sides of its box, so there
    is no seam, and the photo keeps the detail that the small picture of the face did not have.
    """
    height, width = change.shape[:2]
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]]) @ inverse.T
    left, top = np.clip(np.floor(corners.min(0)) - 1, 0, photo.shape[1::-1]).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(0)) + 2, 0, photo.shape[1::-1]).astype(int)
    if left >= right or top >= bottom:
        return photo
    inverse[:, 2] -= left, top  # to the part of the photo that the box lies in
    size = int(right - left), int(bottom - top)
    weight = cv2.warpAffine(soft_mask((height, width)), inverse, size, flags=cv2.INTER_LINEAR)[..., None]
    part = photo[top:bottom, left:right] + strength * weight * warp(change, inverse, size)
    result = photo.copy()
    result[top:bottom, left:right] = part.round().clip(0, 255).astype(np.uint8)
    return result


def make_over_photo(photo, generator, detector, device, autocast, args, saved):
    """The photo with the largest face (or all) made over, (H, W, 3) uint8; None where there is no face."""
    box, size = read_box(saved.box, saved.scale)
    if photo.shape[:2] == size:  # a crop already, as the document has it
        x, made = make_over(generator, photo[None], device, autocast)
        made = (photo + args.strength * 127.5 * (made - x)[0].permute(1, 2, 0).cpu().numpy()).round().clip(0, 255)
        return made.astype(np.uint8)
    (boxes,), _, (landmarks,) = detector.detect([photo])
    if len(boxes) == 0:
        return None
    chosen = range(len(boxes)) if args.all_faces else [pick(boxes, photo.shape, "largest")]
    result = photo
    for index in chosen:
        _, matrix = align(photo, landmarks[index])
        zoom = np.array([size[1] / box[2], size[0] / box[3]])  # from CelebA's pixels to those of the box
        matrix = matrix * zoom[:, None]
        matrix[:, 2] += (0.5 - np.array(box[:2])) * zoom - 0.5
        x, made = make_over(generator, warp(photo, matrix, size[::-1])[None], device, autocast)
        change = 127.5 * (made - x)[0].permute(1, 2, 0).cpu().numpy()
        result = blend(result, np.ascontiguousarray(change), matrix, args.strength)
    return result


def plan_outputs(args):
    """[(file to read, file to write), ...]. InputError: what cannot be read or written, or must not be."""
    if bool(args.infile) == bool(args.images):
        raise InputError("--run inference needs --infile, one photo, GIF or video, or --images with --out_dir")
    if args.images and (args.outfile or not args.out_dir):
        raise InputError("the results of --images go to a folder, --out_dir; --outfile is for --infile")
    if args.infile and args.out_dir:
        raise InputError("the result of --infile is --outfile; --out_dir is for --images")
    files = media_files(args.images or [args.infile])
    if args.images:
        return list(zip(files, plan_folder(files, Path(args.out_dir), args.overwrite), strict=True))
    if len(files) > 1 or Path(args.infile).is_dir():
        raise InputError(f"--infile {args.infile} is a folder: give --images and --out_dir")
    path = Path(args.outfile or f"inference_out{kind_of(files[0])}")
    check_outfile(files[0], path, args.overwrite)
    return [(files[0], path)]


def kind_of(file):
    """The suffix that what becomes of a file has by default."""
    suffix = file.suffix.lower()
    return ".mp4" if suffix in VIDEO_TYPES else ".gif" if suffix == ".gif" else ".png"


def plan_folder(files, folder, overwrite):
    """Where each file's result goes in a folder, which is not made yet."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not overwrite:
        raise InputError(f"--out_dir {folder} is not an empty folder: name another, or add --overwrite")
    above = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"--out_dir {folder}: {above} is not a folder that can be written to")
    stems = name_outputs([file.name for file in files])
    paths = [folder / f"{stem}{kind_of(file)}" for stem, file in zip(stems, files, strict=True)]
    originals = {file.resolve() for file in files}
    if clash := next((path for path in paths if path.resolve() in originals), None):
        raise InputError(f"--out_dir {folder}: {clash} would replace one of the pictures: name another folder")
    return paths


def check_outfile(file, path, overwrite):
    """InputError where a result cannot, or must not, be written there."""
    types = OUTPUTS[kind_of(file)]
    if path.suffix.lower() not in types:
        raise InputError(f"--outfile {path}: for {file.name} expected a name that ends in {', '.join(types)}")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"--outfile {path}: {path.parent} is not a folder that can be written to")
    if path.exists() and (not path.is_file() or path.samefile(file)):
        raise InputError(f"--outfile {path} is the photo itself, or no file: name another")
    if path.exists() and not overwrite:
        raise InputError(f"--outfile {path} is there already: name another, or add --overwrite")


def make_over_file(file, path, work, side_by_side):
    """One photo, GIF or video; work: from a photo to its makeover, or None. Returns frames, those with a face, and what
    of the file the result could not keep.
    """
    with Writer(path, like=file) as writer:
        found = count = 0
        for _, photo in numbered_frames(file):
            made = work(photo)
            count, found = count + 1, found + (made is not None)
            made = photo if made is None else made
            writer.add(np.concatenate([photo, made], 1) if side_by_side else made)
        if found:
            writer.keep()
    return count, found, writer.lost


def inference(args):
    """Make over the faces of photos, GIFs and videos, and put them back where they were."""
    plan = plan_outputs(args)
    generator, device, autocast, saved = load_model(args)
    detector, done, why = MTCNN(device), 0, ""
    plan[0][1].parent.mkdir(parents=True, exist_ok=True)

    def work(photo):
        return make_over_photo(photo, generator, detector, device, autocast, args, saved)

    for file, path in plan:
        try:
            count, found, lost = make_over_file(file, path, work, args.side_by_side)
            why = "no face found" + (f" in {count} frames" if count > 1 else "")
        except InputError as error:
            found, why = 0, str(error).removeprefix(f"{file}: ")
        if found:
            done += 1
            print(f"{path}: " + (f"a face made over in {found} of {count} frames" if count > 1 else "made over"))
            if lost:
                print(f"not kept of {file}: {'; '.join(lost)}")
        elif len(plan) > 1:
            print(f"skipped {file}: {why}")
    if not done:
        if args.images and not any(Path(args.out_dir).iterdir()):
            Path(args.out_dir).rmdir()
        raise InputError(f"{plan[0][0]}: {why}" if len(plan) == 1 else f"none of {len(plan)} files: the last, {why}")
