"""Cut the faces out of pictures, GIFs, videos or folders of them, with MTCNN.

Cut the faces out of a folder (or single files, GIFs, videos), 227 x 227 pixels each:
    python common/mtcnn.py --in_dir photos --out_dir faces --size 227
Bring them into CelebA's 178 x 218 geometry instead:
    python common/mtcnn.py --in_dir photos --out_dir faces --align
The same command goes on where it was stopped; faces.tsv says what was found where, and what was skipped.
"""

import argparse
import contextlib
import errno
import fnmatch
import itertools
import json
import os
import re
import sys
import zlib
from pathlib import Path

import cv2
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository root
from common.celeba import ATTRIBUTES, CelebA
from common.mtcnn import MTCNN, align, crop, pick
from common.photos import (
    InputError,
    fail,
    files_below,
    keep_apart,
    name_outputs,
    named_files,
    numbered_frames,
    tolerate_names,
)

POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
FOUND = ["score", "x1", "y1", "x2", "y2", *(f"{point}_{axis}" for point in POINTS for axis in "xy")]
COLUMNS = ["source", "frame", "output", "faces", *FOUND, "skipped", "file_stamp"]  # of faces.tsv


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    path = dict(type=os.path.expanduser, required=True)
    parser.add_argument("--in_dir", nargs="+", **path, help="pictures, GIFs, videos, or folders of them")
    parser.add_argument("--out_dir", **path, help="where the faces and faces.tsv go; not inside --in_dir")
    parser.add_argument("--size", type=int, default=227, help="pixels of the square crops")
    parser.add_argument("--margin", type=float, default=1.2, help="side of the crop, in longer sides of the face's box")
    parser.add_argument("--align", action="store_true", help="CelebA's 178 x 218 geometry instead of square crops")
    parser.add_argument("--which", choices=("centre", "largest", "all"), default="centre", help="of several faces")
    parser.add_argument("--every", type=int, default=1, help="take every n-th frame of GIFs and videos")
    parser.add_argument("--format", choices=("jpg", "png"), default="jpg", help="of the crops")
    parser.add_argument("--min_face", type=int, default=20, help="side in pixels of the smallest face looked for")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--overwrite", action="store_true", help="start again instead of going on with an earlier run")
    args = parser.parse_args(argv)
    for name, low, high in (("size", 1, 4096), ("margin", 0.1, 10), ("every", 1, 10**9), ("min_face", 12, 10**4)):
        if not low <= getattr(args, name) <= high:
            raise InputError(f"--{name} {getattr(args, name)}: expected {low} to {high}")
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    devices = ["cpu", "cuda", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if args.device not in devices or args.device == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {args.device}: not on this machine; expected auto, cpu, cuda or cuda:N")
    return args


def list_inputs(in_dir, out_dir):
    """Files to read, their names relative to the input they are in, and the CelebA data set that they are (or None)."""
    keep_apart(out_dir, filter(Path.is_dir, map(Path, in_dir)))
    root = Path(in_dir[0])
    if len(in_dir) == 1 and root.is_dir():
        beside = root.parent.glob("*_?eleb?.*") if root.name.lower().startswith("img_") else ()
        within = fnmatch.filter((Path(name).name for name in files_below(root, [])), "*_?eleb?.*")
        if any(Path(name).suffix in (".txt", ".csv") for name in (*beside, *within)):
            dataset = CelebA(root)
            for problem in dataset.problems:
                print(f"note: {problem}", file=sys.stderr)
            names = [re.sub(r"\s", "_", name) for name in dataset.files]  # blanks part the columns of CelebA's files
            return [dataset.image_dir / name for name in dataset.files], names, dataset
    inputs = dict.fromkeys(map(Path, in_dir))  # what is named twice, also with its folder, is read once
    known = dict(zip(*named_files(inputs), strict=True))
    return [*known], [*known.values()], None


def replace_file(path, data):
    """Write bytes so that the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{zlib.crc32(os.fsencode(path.name)):08x}.tmp")  # names may be as long as can be
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def encode_rows(rows):
    """Rows of faces.tsv as bytes."""
    lines = ("\t".join(row.get(column, "") for column in COLUMNS) + "\n" for row in rows)
    return "".join(lines).encode("utf-8", "surrogateescape")


def read_rows(table, title, overwrite):
    """Rows of an earlier faces.tsv, or none. InputError: it was made with other settings."""
    if not table.exists():
        return []
    lines = table.read_bytes().decode("utf-8", "surrogateescape").split("\n")
    if lines[0] != title and not overwrite:
        raise InputError(
            f"{table.parent} was made with other settings, {lines[0].removeprefix('# ')}: "
            "give the same, --overwrite, or another --out_dir"
        )
    rows = [line.split("\t") for line in lines[2:-1]]
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in rows if len(row) == len(COLUMNS)]
    if lines[-1]:  # the last line was cut short, so faces of the picture before it may be missing: not valid
        for row in rows:
            if (row["source"], row["frame"]) == (rows[-1]["source"], rows[-1]["frame"]):
                row["file_stamp"] = ""
    return rows


def read_batches(files, stamps, every, done):
    """Yield lists of (row of faces.tsv so far, image or None), as many as fit into memory; done ones are left out."""
    batch, pixels = [], 0
    for source, file in tqdm(files.items(), "faces", unit=" files", disable=None):
        row = {"source": source, "frame": "", "file_stamp": stamps[source]}
        try:
            for number, image in numbered_frames(file, every) if (source, "") not in done else ():
                frame = "" if number is None else str(number)
                if (source, frame) not in done:
                    batch.append((row | {"frame": frame}, image))
                    pixels += image.shape[0] * image.shape[1]
                if len(batch) == 64 or pixels > 30_000_000:
                    yield batch
                    batch, pixels = [], 0
        except InputError as error:
            batch.append((row | {"skipped": str(error).removeprefix(f"{file}: ")}, None))
    yield batch


def cut_out(image, boxes, scores, landmarks, args):
    """The wanted faces of a picture, the one nearest the middle or the largest first: (crop, columns of faces.tsv)."""
    first = pick(boxes, image.shape, "largest" if args.which == "largest" else "centre")
    order = [] if first is None else [first]
    if args.which == "all":
        order += [index for index in range(len(boxes)) if index != first]
    for index in order:
        face = align(image, landmarks[index])[0] if args.align else crop(image, boxes[index], args.size, args.margin)
        numbers = [scores[index], *boxes[index], *landmarks[index].ravel()]
        columns = dict(zip(FOUND, (f"{number:.4f}" for number in numbers), strict=True))
        yield face, columns | {"faces": str(len(boxes))}  # in the picture, this one and those that are left


def write_faces(batch, detector, stems, out_dir, args):
    """Write the faces of a batch of read_batches() as pictures; returns its rows of faces.tsv."""
    found = zip(*detector.detect([image for _, image in batch if image is not None]), strict=True)
    rows = []
    for row, image in batch:
        stem = stems[row["source"]] + (f"/{int(row['frame']):06d}" if row["frame"] else "")
        faces = [] if image is None else list(cut_out(image, *next(found), args))
        for number, (face, columns) in enumerate(faces, 1):
            name = f"{stem}_face{number}.{args.format}" if number > 1 else f"{stem}.{args.format}"
            coded = cv2.imencode(f".{args.format}", face[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
            try:
                replace_file(out_dir / name, coded.tobytes())
                rows.append(row | columns | {"output": name})
            except OSError as error:
                if error.errno not in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):  # such as a full disk
                    raise
                rows.append(row | {"skipped": f"a face cannot be written under this name ({error.strerror})"})
        if not faces:
            rows.append({"skipped": "no face found"} | row)
    return rows


def crop_folder(args):
    """Cut the faces out of everything in args.in_dir, going on with an earlier run; faces.tsv says what is where."""
    out_dir, table = Path(args.out_dir), Path(args.out_dir, "faces.tsv")
    files, names, dataset = list_inputs(args.in_dir, out_dir)
    if out_dir.exists() and not table.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise InputError(f"--out_dir {out_dir} has other things in it: choose a new or an empty folder")
    settings = ["in_dir", "which", "every", "format", "min_face", "align", *([] if args.align else ["size", "margin"])]
    title = "# " + json.dumps({name: getattr(args, name) for name in settings})
    rows = read_rows(table, title, args.overwrite)
    detector = MTCNN(args.device, args.min_face)

    # What is done and unchanged stays; the crops of what has changed or gone are removed.
    files = {str(file).translate({9: " ", 10: " ", 13: " "}): file for file in files}
    stems = dict(zip(files, name_outputs(names), strict=True))
    stamps = {source: f"{file.stat().st_mtime_ns}-{file.stat().st_size}" for source, file in files.items()}
    unchanged = [row for row in rows if stamps.get(row["source"]) == row["file_stamp"] and not args.overwrite]
    named = [row for row in unchanged if not row["output"] or row["output"].startswith(stems[row["source"]])]
    valid = [row for row in named if (out_dir / row["output"]).exists()]
    outputs = {row["output"] for row in valid}
    for row in rows:
        if row["output"] not in outputs and out_dir.resolve() in (out_dir / row["output"]).resolve().parents:
            (out_dir / row["output"]).unlink(missing_ok=True)
    rows, done = valid, {(row["source"], row["frame"]) for row in valid}

    replace_file(table, (title + "\n" + "\t".join(COLUMNS) + "\n").encode() + encode_rows(rows))
    with open(table, "ab", buffering=0) as file:
        for batch in read_batches(files, stamps, args.every, done):
            new = write_faces(batch, detector, stems, out_dir, args)
            file.write(encode_rows(new))
            rows += new

    found = [row for row in rows if row.get("output")]
    missing = [row for row in rows if not row.get("output")]
    if not found:
        table.unlink()
        with contextlib.suppress(OSError):
            out_dir.rmdir()
        raise InputError(f"no face in any of {len(missing)} pictures ({missing[0]['source']}: {missing[0]['skipped']})")
    if dataset is not None:
        write_annotations(out_dir, dataset, dict(zip(files, itertools.count(), strict=False)), found)
    skipped = f"{plural(len(missing), 'picture')} skipped" + f", see {table}" * bool(missing)
    print(f"{plural(len(found), 'face')} in {out_dir}; {skipped}")
    groups = {(row["source"], row["frame"]): int(row["faces"]) for row in found}
    if left := sum(groups.values()) - len(found):
        several = sum(count > 1 for count in groups.values())
        print(f"{plural(left, 'more face')} in {plural(several, 'picture')} were left: --which all takes them")


def plural(count, what):
    """1 face, 2 faces."""
    return f"{count} {what}{'s' * (count != 1)}"


def write_annotations(out_dir, dataset, index, rows):
    """Write CelebA's annotation files for the crops of a data set: of several faces of a picture, for the first."""
    outputs = {index[row["source"]]: row["output"] for row in reversed(rows)}
    tables = {"list_eval_partition": dataset.partition[:, None]}
    if dataset.identity is not None:
        tables["identity_CelebA"] = dataset.identity[:, None]
    if dataset.attributes is not None:
        tables["list_attr_celeba"] = dataset.attributes.astype(int) * 2 - 1
    for name, values in tables.items():
        lines = [f"{len(outputs)}", " ".join(ATTRIBUTES)] if name == "list_attr_celeba" else []
        lines += [" ".join([outputs[number], *map(str, values[number])]) for number in sorted(outputs)]
        replace_file(out_dir / f"{name}.txt", ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))


def main(argv=None):
    tolerate_names()
    try:
        crop_folder(parse_args(argv))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")
    except (InputError, OSError) as error:
        sys.exit(fail(str(error)))


if __name__ == "__main__":
    main()
