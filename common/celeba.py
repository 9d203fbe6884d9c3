"""CelebA, or any folder of pictures of faces: from files on disk to batches on the device.

Check a data set (a folder in any of CelebA's layouts, or a zip as downloaded) and say what is there or what is wrong:
    python common/celeba.py --dataset_dir data/celeba
Decode every picture as well, and list the damaged ones:
    python common/celeba.py --dataset_dir data/celeba --full
Fetch CelebA from Google Drive with torchvision's downloader (needs gdown), into data/celeba:
    python common/celeba.py --dataset_dir data/celeba --download
"""

import argparse
import contextlib
import difflib
import hashlib
import itertools
import json
import multiprocessing
import os
import secrets
import shutil
import signal
import sys
import threading
import time
import unicodedata
import zipfile
import zlib
from collections import deque
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path, PureWindowsPath

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository root
from common.mtcnn import MTCNN, Place, align, pick, rescale, square_matrix
from common.mtcnn import crop as crop_face
from common.photos import (
    IMAGE_TYPES,
    InputError,
    fail,
    list_below,
    named_files,
    numbered_frames,
    read_image,
    tolerate_names,
    visible,
)

ATTRIBUTES = """5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair
    Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup
    High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose
    Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat
    Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young""".split()
PARTS = ("train", "validation", "test")

# Boxes (x, y, width, height) in CelebA's aligned pictures, which are WIDTH x HEIGHT
WIDTH, HEIGHT = 178, 218
FULL = (0, 0, 178, 218)
SQUARE = (0, 20, 178, 178)
MAKEOVER = (49, 90, 80, 100)
FACE = (36, 72, 107, 107)  # what of them is the face
CROPS = {"face": "face", "whole": "whole", "full": FULL, "square": SQUARE, "makeover": MAKEOVER}
FEW = 4000  # pictures of CelebA's size that are read before another process has even started

# Annotation files: name without .txt or .csv, values per picture, whether the .txt begins with a count and titles
TABLES = {
    "attributes": ("list_attr_celeba", 40, True),
    "identity": ("identity_CelebA", 1, False),
    "landmarks": ("list_landmarks_align_celeba", 10, True),
    "partition": ("list_eval_partition", 1, False),
}
ALLOWED = {"attributes": (-1, 1), "partition": (0, 1, 2)}
PICTURE_FOLDERS = ("img_align_celeba", "img_celeba")  # what the names of CelebA's own picture folders begin with
FORMAT = 1  # of the packed records; a change makes older ones be packed anew
BATCH = 64  # pictures per call of the face detector
DRAWN = 256  # steps whose draws are sent to a GPU together


# Finding the pictures


class CelebA:
    """The files and annotations of a data set; no pixels.

    dataset_dir: a folder in the official layout (Img/ Anno/ Eval/), torchvision's (celeba/), the flat one, Kaggle's
    (csv files), a folder of any pictures, or a zip as downloaded, which is unpacked beside itself once.
    InputError: anything that makes the data set unusable, with file and line where there are.

    root, image_dir: Paths; files: N names relative to image_dir; layout, partition_source: texts; problems: one line
    for each oddity; sizes: (width, height) of a few pictures; aligned: whether they have CelebA's geometry; cropped:
    whether common/mtcnn.py has cut them to faces already; sources: the annotation files by the names of TABLES.
    attributes (N, 40) uint8 of 0 and 1, identity (N,) int32, landmarks (N, 5, 2) float32, x and y in the 178 x 218
    geometry: None where there is no file. partition: (N,) uint8, 0 train, 1 validation, 2 test; where no file gives
    one, drawn, and the same for every command, so that no seed makes test faces of training faces.
    """

    def __init__(self, dataset_dir):
        self.problems = []
        try:
            self.root, self.image_dir, files, self.layout = find(Path(dataset_dir).expanduser(), self.problems)
            self.sources, tables, keep = read_annotations(self.root, self.image_dir, files, self.problems)
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from None
        self.files = list(itertools.compress(files, keep))
        self.attributes, self.identity = tables.get("attributes"), tables.get("identity")
        self.landmarks = tables.get("landmarks")
        if "partition" in tables and (len(self.files) < 3 or len(np.unique(tables["partition"])) == 3):
            self.partition, self.partition_source = tables["partition"], self.sources["partition"].name
        else:
            self.partition, self.partition_source = split(len(self.files), self.identity)
            if "partition" in tables:
                self.problems.append(f"{self.sources['partition'].name} leaves a part without pictures: not used")

        # A few sizes tell CelebA's aligned pictures, at any scale, from others.
        self.sizes = []
        for index in np.unique(np.linspace(0, len(self.files) - 1, 8).astype(int)):
            try:
                self.sizes.append(read_image(self.image_dir / self.files[index]).shape[1::-1])
            except InputError:
                pass  # named by pack() and --full
        fits = [abs(width / height * HEIGHT / WIDTH - 1) < 0.01 for width, height in self.sizes]
        named = self.image_dir.name.lower() == "img_align_celeba" and bool(tables)
        self.aligned = named or bool(fits) and all(fits)
        if named and not all(fits):
            width, height = self.sizes[fits.index(False)]
            self.problems.append(
                f"some pictures have another shape than 178 x 218 (such as {width} x {height}): their middle is used"
            )

        self.cropped = (self.root / "faces.tsv").is_file()


def find(root, problems):
    """Locate the pictures below root, unpacking a zip where there is one; (root, image_dir, files, layout)."""
    root = Path(os.path.abspath(root))
    if root.is_file():
        root = extract(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected one with pictures, or a zip such as img_align_celeba.zip")
    given = root
    while len(inside := [path for path in root.iterdir() if visible(path.name)]) == 1:
        only = inside[0]
        if not only.is_dir() or only.name.lower() in ("celeba", "img") or is_celeba(only):
            break
        root = only
    if not inside:
        raise InputError(f"{root}: the folder is empty")
    if root != given:
        problems.append(f"nested folders: the data set lies in {root.relative_to(given)}")

    folders = list(folders_below(root, 3))
    named = [
        folder
        for folder in filter(is_celeba, folders)
        if any(is_picture(name) and os.path.isfile(folder / name) for name in os.listdir(folder))
    ]
    named.sort(key=lambda folder: (PICTURE_FOLDERS.index(is_celeba(folder)), folder.name.lower()))
    if named:
        if len(named) > 1:
            if named[0].name.lower() == named[1].name.lower():
                raise InputError(f"{given}: two data sets, {named[0]} and {named[1]}; give one of them")
            problems.append(f"several folders of pictures: {named[0]} is used, not {named[1]}")
        layouts = {"img": "official", "celeba": "torchvision's", named[0].name.lower(): "Kaggle's"}
        layout = layouts.get(named[0].parent.name.lower(), "flat") + " layout"
        files, notes = list_below(named[0], IMAGE_TYPES)
        problems += notes
        return root, named[0], files, layout

    zips = [
        path for folder in folders for path in sorted(folder.glob("*.zip")) if visible(path.name) and path.is_file()
    ]
    known = [path for path in zips if is_celeba(path)]
    files, notes = ([], []) if known else list_below(root, IMAGE_TYPES)
    if files:
        problems += notes
        return root, root, files, "folder of pictures"
    if len(known or zips) == 1:
        extract((known or zips)[0])
        return find(given, [])
    found = ", ".join(sorted(path.name for path in inside)[:3])
    hint = f"; unpack one of {', '.join(path.name for path in zips)}" if zips else ""
    raise InputError(f"{given}: no pictures in this folder, which has {found}{hint}{''.join(f'; {n}' for n in notes)}")


def is_celeba(path):
    """The one of PICTURE_FOLDERS that the name of a folder or zip begins with, or None."""
    return next((name for name in PICTURE_FOLDERS if path.name.lower().startswith(name)), None)


def is_picture(name):
    """Whether a file is a picture by its name, in capitals or not."""
    return visible(name) and os.path.splitext(name)[1].lower() in IMAGE_TYPES


def folders_below(root, depth):
    """Yield root and the visible folders at most depth levels below it, nearest first."""
    level = [root]
    for _ in range(depth + 1):
        yield from level
        entries = (entry for folder in level for entry in os.scandir(folder))
        level = sorted(Path(entry.path) for entry in entries if visible(entry.name) and os.path.isdir(entry.path))


def leads_out(name):
    """Whether a relative file name would, on any system, lead out of its folder."""
    path = PureWindowsPath(name)  # knows both slashes and drive letters
    return bool(path.anchor) or ".." in path.parts


def is_web_page(path):
    """Whether a file is a web page: what Google Drive sends instead of a file once its download limit is reached."""
    with open(path, "rb") as file:
        return file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<head"))


def list_members(file, archive, folder):
    """The pictures and annotation files of an open zip: {name without a leading folder of that name: member}."""
    members = {member.filename.replace("\\", "/"): member for member in file.infolist()}
    for name in members:
        if leads_out(name):
            raise InputError(f"{archive}: refused, it has a file that leads out of its folder: {name}")
    pictures = {name for name in members if visible(name) and is_picture(name.split("/")[-1])}
    if not pictures:
        raise InputError(f"{archive}: no pictures in this archive")
    tables = {name for name in members if visible(name) and name.endswith((".txt", ".csv"))}
    members = {name: member for name, member in members.items() if name in pictures | tables}
    if all(name.startswith(folder + "/") for name in members):
        members = {name.removeprefix(folder + "/"): member for name, member in members.items()}
    return members


def extract(archive):
    """Unpack the pictures and annotation files of a zip into a folder of its name beside it, once; return the folder.

    All or nothing. InputError: no zip, a damaged one, one with names that lead out of the folder, no room.
    """
    target = archive.with_suffix("")
    if is_web_page(archive):
        raise InputError(
            f"{archive} is a web page, not a zip (Google Drive's download limit, or a log-in page, saved "
            "under that name): delete it and download it again, later or from another source"
        )
    with open(archive, "rb") as file:
        head = file.read(6)
    if not head.startswith(b"PK"):
        kind = "empty" if not head else "a 7z archive" if head == b"7z\xbc\xaf\x27\x1c" else "no zip archive"
        raise InputError(f"{archive} is {kind}; --dataset_dir is a folder of pictures or a .zip")
    try:
        with zipfile.ZipFile(archive) as file:
            members = list_members(file, archive, target.name)
            if target.exists():
                if all((target / name).is_file() for name in (min(members), max(members))):
                    return target  # unpacked before
                raise InputError(f"{target} is in the way of unpacking {archive.name}: move it away")
            check_room(archive.parent, sum(member.file_size for member in members.values()), "unpacking")
            with replacing(target) as temporary:
                for name, member in tqdm(members.items(), f"unpacking {archive.name}", unit=" files", disable=None):
                    path = temporary / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with file.open(member) as packed, open(path, "wb") as unpacked:
                        shutil.copyfileobj(packed, unpacked)
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise InputError(f"{archive} is cut short or damaged ({error}): download it again") from None
    except (RuntimeError, OSError) as error:  # a password, an unusual compression; a folder that cannot be written
        if target.is_dir():
            return target  # another process was quicker
        advice = "unpack it by hand and give the folder"
        raise InputError(f"{archive} cannot be unpacked beside itself ({error}): {advice}") from None
    return target


def check_room(folder, needed, what):
    """InputError where there is not enough room on the disk for so many bytes."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"{folder}: {what} takes {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")


@contextlib.contextmanager
def replacing(path):
    """A temporary path, which takes the place of path once the block has ended well and is removed otherwise.

    What a killed process left behind is removed after a day: until then it could be another process's work.
    """
    for old in path.parent.glob(".*.celeba-tmp"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > 24 * 3600:
                remove(old)
    temporary = path.with_name(f".{secrets.token_hex(8)}.celeba-tmp")  # short: a name may be as long as names can be
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        remove(temporary)


def remove(path):
    """Remove a file or folder, if it exists."""
    shutil.rmtree(path, ignore_errors=True)  # leaves files alone
    path.unlink(missing_ok=True)


def download(dataset_dir):
    """Fetch CelebA into dataset_dir/celeba with torchvision's downloader; all of it or nothing.

    InputError: gdown is missing, the folder is in use, Google Drive sends a web page, any other failure.
    """
    target = Path(os.path.abspath(Path(dataset_dir).expanduser()))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is not empty: --download wants a new or an empty folder")
    if find_spec("gdown") is None:
        raise InputError("--download needs the gdown package: pip install gdown")
    from torchvision.datasets import CelebA as Downloader

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            try:
                Downloader(root=temporary, download=True)
            except Exception as error:  # gdown's, requests', zipfile's and torchvision's own
                pages = sorted(path.name for path in temporary.rglob("*") if path.is_file() and is_web_page(path))
                if pages:
                    raise InputError(
                        f"Google Drive sent a web page instead of {pages[0]}, its download limit usually: "
                        "try again in a day, or get CelebA elsewhere; nothing was kept"
                    ) from None
                reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise InputError(f"the download failed ({reason}); nothing was kept") from None
            if target.is_dir():
                target.rmdir()  # an empty one
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror})") from None


# Annotations


def read_annotations(root, image_dir, files, problems):
    """Read the annotation files that belong to the pictures and put their rows in the order of files.

    Returns the files they came from, the tables (both by the names of TABLES) and keep (len(files),) bool: the pictures
    that have a row in each of them. The tables have one row for each picture kept. InputError: a malformed file, or one
    that names none of the pictures.
    """
    top = root
    while top.name.lower() == "img" or is_celeba(top):
        top = top.parent  # the picture folder itself was given: the annotations lie outside of it
    places = [image_dir, *image_dir.parents]
    places = places[: places.index(top) + 1]
    sources, tables, rows = {}, {}, {}
    for kind, (stem, _, _) in TABLES.items():
        folders = [place / sub for place in places for sub in ("", "Anno", "Eval")]
        candidates = [folder / (stem + suffix) for folder in folders for suffix in (".txt", ".csv")]
        sources[kind] = next((path for path in candidates if path.is_file()), None)
        if sources[kind] is not None:
            names, tables[kind] = read_table(sources[kind], kind)
            rows[kind] = match(files, names, sources[kind], image_dir, problems)
    keep = np.all([row >= 0 for row in rows.values()], axis=0) if rows else np.ones(len(files), bool)
    if not keep.any():
        raise InputError(f"{root}: no picture has a row in every annotation file; they belong to different data sets")
    return sources, {kind: table[rows[kind][keep]] for kind, table in tables.items()}, keep


def match(files, names, source, image_dir, problems):
    """(len(files),) row of every picture in a table with these names, -1 where it has none."""
    if names == files:
        return np.arange(len(files))
    index = {name: row for row, name in enumerate(names)}
    found = [index.get(file, -1) for file in files]
    if max(found) < 0:  # pictures converted from .jpg to .png still belong to their rows
        index = {os.path.splitext(name)[0]: row for name, row in index.items()}
        found = [index.get(os.path.splitext(file)[0], -1) for file in files]
    if min(found) < 0 and not all(map(str.isascii, files)):  # a Mac takes accented letters apart
        composed = {unicodedata.normalize("NFC", name): row for name, row in index.items()}
        found = [composed.get(unicodedata.normalize("NFC", file), row) for file, row in zip(files, found, strict=True)]
    found = np.array(found)
    if (found < 0).all():
        raise InputError(
            f"{source}: none of its {len(names)} rows names one of the {len(files)} pictures in "
            f"{image_dir} (it has {names[0]}, the folder {files[0]})"
        )
    without = [file for file, row in zip(files, found, strict=True) if row < 0]
    if without:
        problems.append(f"{len(without)} pictures have no row in {source.name} and are left out: {first(without)}")
    used = np.zeros(len(names), bool)
    used[found[found >= 0]] = True
    if not used.all():
        without = list(itertools.compress(names, ~used))
        problems.append(f"{len(without)} rows of {source.name} have no picture: {first(without)}")
    return found


def first(names):
    """The first three, as text."""
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def read_table(path, kind):
    """Read one of CelebA's annotation files, .txt or Kaggle's .csv.

    Returns the file names and a table: attributes (N, 40) uint8 of 0 and 1 in the order of ATTRIBUTES, landmarks
    (N, 5, 2) float32, identity (N,) int32, partition (N,) uint8. InputError with the line and what was expected.
    """
    stem, columns, titled = TABLES[kind]
    comma = b"," if path.suffix.lower() == ".csv" else None
    if is_web_page(path):
        raise InputError(f"{path} is a web page, not {stem} (Google Drive's download limit?): download it again")
    names, blocks, count, titles = [], [], None, None
    with open(path, "rb") as file:
        mark = file.read(3)
        if mark.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise InputError(f"{path} is text in UTF-16: save it as UTF-8")
        file.seek(3 if mark == b"\xef\xbb\xbf" else 0)  # Windows' mark of UTF-8 is no part of the first name
        number = 1  # of the line that comes next
        if comma:
            titles, number = file.readline().decode(errors="replace").strip().split(",")[1:], 2
        elif titled:
            count, titles, number = file.readline().strip(), file.readline().decode(errors="replace").split(), 3
            if not count.isdigit():
                raise InputError(f"{path}:1: expected the number of pictures, found {shorten(count)}")
        if titles is not None and len(titles) != columns:
            raise InputError(f"{path}:{number - 1}: expected {columns} titles, found {len(titles)}")
        if kind == "attributes" and sorted(titles) != sorted(ATTRIBUTES):
            wrong = next((title for title in titles if title not in ATTRIBUTES), "one of them twice")
            raise InputError(f"{path}:{number - 1}: expected CelebA's 40 attribute names, found {shorten(wrong)}")
        while lines := file.readlines(1 << 21):  # blocks of lines: little memory, however long the file
            heads, rows = [], []
            for line in lines:
                row = line.split(comma, 1)  # not kept: many small lists keep the garbage collector busy
                if len(row) == 2:
                    heads.append(row[0])
                    rows.append(row[1])
                elif not line.isspace():
                    rows.append(b"too short")
            values = parse(rows, columns, comma)
            if values is None or kind in ALLOWED and not np.isin(values, ALLOWED[kind]).all():
                raise InputError(explain(path, number, lines, columns, comma, ALLOWED.get(kind)))
            blocks.append((values > 0).astype(np.uint8) if kind == "attributes" else values)
            names += b"\n".join(heads).decode(errors="surrogateescape").split("\n") if heads else []
            number += len(lines)
    if not names:
        raise InputError(f"{path}: no rows")
    if count is not None and int(count) != len(names):
        raise InputError(f"{path}:1: announces {int(count)} pictures, but {len(names)} rows follow: cut short?")
    for name in names:
        if ("/" in name or "\\" in name or ":" in name or ".." in name) and leads_out(name):
            raise InputError(f"{path}: refused, it has a file name that leads out of the picture folder: {name}")
    if len(set(names)) < len(names):
        twice = next(name for name, next_name in itertools.pairwise(sorted(names)) if name == next_name)
        raise InputError(f"{path}: {twice} has two rows; expected one for each picture")
    table = np.concatenate(blocks)
    if kind == "attributes":
        return names, table if titles == ATTRIBUTES else table[:, [titles.index(name) for name in ATTRIBUTES]]
    if kind == "landmarks":
        return names, table.astype(np.float32).reshape(-1, 5, 2)
    return names, table[:, 0].astype(np.uint8 if kind == "partition" else np.int32)


def parse(rows, columns, comma):
    """(len(rows), columns) numbers from the values of as many rows; None if anything is not as it should be.

    One call of np.fromstring for all rows: splitting each into its values would take several times as long. A mark
    larger than any value ends every row, so that rows with too few and too many values cannot make up for each other.
    """
    mark = -(2**40)
    text = f" {mark} ".encode().join([*rows, b""])
    for dtype in (np.int64, np.float64):  # whole numbers are read five times as fast
        try:
            values = np.fromstring(text.replace(b",", b" ") if comma else text, dtype, sep=" ")
        except ValueError:
            continue
        if values.size == len(rows) * (columns + 1):
            values = values.reshape(-1, columns + 1)
            if (values[:, columns] == mark).all() and (np.abs(values[:, :columns]) < -mark).all():
                return values[:, :columns]
    return None


def explain(path, number, lines, columns, comma, allowed):
    """What is wrong with the first bad one of these lines, the first of which has this number in the file."""
    expected = " or ".join(map(str, allowed or ["a number"]))
    for line_number, line in enumerate(lines, number):
        if line.isspace():
            continue
        name, *values = line.strip().split(comma)
        if len(values) != columns:
            return f"{path}:{line_number}: expected a file name and {columns} values, found {len(values)} values"
        for value in values:
            try:
                fits = float(value) in allowed if allowed else np.isfinite(float(value))
            except ValueError:
                fits = False
            if not fits:
                name = name.decode(errors="replace")
                return f"{path}:{line_number}: expected {expected} for {name}, found {shorten(value)}"
    return f"{path}:{line_number}: something that is no number, here or above"


def shorten(text):
    """What was found in a file, in quotes, as text that fits on a line."""
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    return repr(text if len(text) <= 40 else text[:40] + "...")


def split(count, identity):
    """A partition, 80 / 10 / 10, that keeps the pictures of a person in one part; (count,) uint8 and how it was made.

    Every part has a picture as soon as there are three people (three pictures, where nobody knows who is on them).
    """
    if identity is None or len(np.unique(identity)) < 3:
        people, how = np.arange(count), "by picture"
    else:
        people, how = np.unique(identity, return_inverse=True)[1], "by identity"
    sizes = np.bincount(people)
    order = generator(0).permutation(len(sizes))
    total = sizes[order].cumsum()
    most = len(sizes) - 2  # people in training at most, so that one each is left for validation and test
    train = min(max(1, np.searchsorted(total, 0.8 * count, side="right")), max(1, most))
    validation = min(max(train + 1, np.searchsorted(total, 0.9 * count, side="right")), max(train, most + 1))
    part = np.full(len(sizes), 2, np.uint8)
    part[order[:train]] = 0
    part[order[train:validation]] = 1
    return part[people], f"drawn {how}, 80/10/10"


def generator(seed, *key):
    """Random numbers that depend on a seed (any whole number) and further numbers alone."""
    return np.random.default_rng((seed % 2**64, *key))


def attribute_indices(names):
    """Columns of attributes given as text ("Male,Smiling") or as a list; InputError with the nearest names."""
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    for name in names:
        if name not in ATTRIBUTES:
            lower = {attribute.lower(): attribute for attribute in ATTRIBUTES}
            near = difflib.get_close_matches(name.lower(), lower, 3, 0.4)
            near += [key for key in lower if name and name.lower() in key and key not in near]
            names = [lower[key] for key in near[:3]] or ATTRIBUTES
            raise InputError(f"unknown attribute {name!r}; {'nearest' if near else 'there are'}: {', '.join(names)}")
        if names.count(name) > 1:
            raise InputError(f"attribute {name} is given twice")
    return [ATTRIBUTES.index(name) for name in names]


def parse_condition(text):
    """{"Male": 1, "Eyeglasses": 0} from "Male=1,Eyeglasses=0" (-1 is 0 as well); InputError for anything else."""
    pairs = [pair.partition("=") for pair in text.split(",")] if text.strip() else []
    values = {"1": 1, "0": 0, "-1": 0}
    for pair in pairs:
        if pair[2].strip() not in values:
            raise InputError(f"{''.join(pair).strip()!r}: expected Attribute=1 or Attribute=0")
    names = [name.strip() for name, _, _ in pairs]
    attribute_indices(names)
    return {name: values[value.strip()] for name, (_, _, value) in zip(names, pairs, strict=True)}


def matches(attributes, condition):
    """(N,) bool: the rows of attributes (N, 40) for which a condition such as "Male=1,Eyeglasses=0" holds.

    InputError: as parse_condition; there are no attributes (None).
    """
    condition = parse_condition(condition)
    if attributes is None:
        raise InputError("a condition on attributes needs list_attr_celeba.txt or .csv, which this data set lacks")
    return (attributes[:, attribute_indices(condition)] == list(condition.values())).all(1)


# Pictures to crops


def cut_box(image, box, size):
    """Cut a box of CelebA's 178 x 218 geometry out of a picture of any size; (height, width, 3) uint8.

    A picture of another shape counts as its largest 178 : 218 part around the middle. One resampling, without aliasing;
    none, exactly the pixels, where the box has that size in the picture.
    """
    scale = min(image.shape[1] / WIDTH, image.shape[0] / HEIGHT)
    left, top = (image.shape[1] - scale * WIDTH) / 2, (image.shape[0] - scale * HEIGHT) / 2
    x, y, width, height = box
    corners = left + scale * x, top + scale * y, left + scale * (x + width), top + scale * (y + height)
    limits = (image.shape[1], image.shape[0]) * 2
    corners = [min(max(0, corner), limit) for corner, limit in zip(corners, limits, strict=True)]  # rounding
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC, corners))


def cut_faces(pictures, crop, size, detector, which, faceless=False):
    """Find the faces of many pictures, a batch at a time, and cut them as pack() does.

    pictures: (name, image or None, why not) each; yields (name, crop or None, why not, matrix), the matrix (2, 3) from
    pixels of the picture to those of the crop. which: "centre", "largest", or "all", the largest first. faceless: the
    middle of a picture without a face, and no matrix.
    """
    batch, pixels = [], 0
    for picture in itertools.chain(pictures, [None]):
        if picture is not None:
            batch.append(picture)
            pixels += 0 if picture[1] is None else picture[1].size
        if picture is None or len(batch) == BATCH or pixels > 200_000_000:
            boxes, _, landmarks = detector.detect([image for _, image, _ in batch if image is not None])
            found = zip(boxes, landmarks, strict=True)
            for name, image, reason in batch:
                if image is None:
                    yield name, None, reason, None
                    continue
                boxes, landmarks = next(found)
                for index in order_faces(boxes, image.shape, which):
                    yield name, *cut_face(image, boxes[index], landmarks[index], crop, size)
                if len(boxes) == 0:
                    middle = cut_middle(image, size) if faceless else None
                    yield name, middle, "" if faceless else "no face found", None
            batch, pixels = [], 0


def order_faces(boxes, shape, which):
    """Indices of the faces to take of those in a picture of that shape: one, or "all", the largest first."""
    if which == "all":
        return np.argsort(-(boxes[:, 2:] - boxes[:, :2]).prod(1), kind="stable").tolist()
    index = pick(boxes, shape, which)
    return [] if index is None else [index]


def cut_face(image, box, landmarks, crop, size):
    """A face that was found, as pack() cuts it: (crop or None, why not, the matrix to it)."""
    if crop == "face":
        return crop_face(image, box, size[0]), "", square_matrix(box, size)
    try:
        aligned, matrix = align(image, landmarks)
    except InputError as error:
        return None, str(error), None
    return cut_box(aligned, crop, size), "", rescale(matrix, crop, size)


def cut_middle(image, size):
    """The largest part around the middle that has the shape of size, resized; (height, width, 3) uint8."""
    scale = min(image.shape[0] / size[0], image.shape[1] / size[1])
    left, top = (image.shape[1] - scale * size[1]) / 2, (image.shape[0] - scale * size[0]) / 2
    box = left, top, image.shape[1] - left, image.shape[0] - top
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC, box))


def check_crop(crop, size):
    """InputError where a crop (a name, or a box in the 178 x 218 geometry) or a size (height, width) makes no sense."""
    if crop in ("face", "whole"):
        if size[0] != size[1]:
            raise InputError(f"{crop} crops are square; {size[0]} x {size[1]} is not")
    else:
        x, y, width, height = (0, 0, 0, 0) if isinstance(crop, str) else crop
        if min(x, y) < 0 or min(width, height) < 1 or x + width > WIDTH or y + height > HEIGHT:
            raise InputError(f'crop {crop}: expected "face", "whole" or a box x, y, width, height within 178 x 218')
    if min(size) < 1:
        raise InputError(f"size {size[0]} x {size[1]}: expected at least one pixel")


def find_faces(paths, crop, size, detector, which="largest", faceless=False):
    """The faces of a person's own photos, folders, GIFs and videos, as pack() cuts them.

    crop: "face" or a box. which: of several faces, "largest", "centre" or "all". faceless: take the middle of a picture
    without a face. Returns images (N, height, width, 3) uint8, their names (paths within the folder that was given; a
    second face of a picture is NAME_face2.jpg), skipped (name, reason), and the Place of each, None where no face was
    found. InputError: a missing path, or no usable face at all.
    """
    images, names, skipped, places, last, number = [], [], [], [], None, 1
    for key, image, reason, matrix in cut_faces(whole_pictures(paths), crop, size, detector, which, faceless):
        name, file, whole, frame = key
        number, last = number + 1 if key == last else 1, key
        if image is None:
            skipped.append((name, reason))
            continue
        stem, suffix = os.path.splitext(name)
        images.append(image)
        names.append(f"{stem}_face{number}{suffix}" if number > 1 else name)
        places.append(None if matrix is None else Place(file, whole, frame, matrix))
    if not images:
        raise InputError("no usable face: " + first([f"{name} ({reason})" for name, reason in skipped]))
    return np.stack(images), names, skipped, places


def whole_pictures(paths):
    """Yield (key, image or None, why not) for every frame of the files, and for a file that cannot be read.

    key: the frame's name (such as clip_000012.mp4), the file, the file's name, the number of the frame from 0 on.
    """
    for file, whole in zip(*named_files(paths), strict=True):
        stem, suffix = os.path.splitext(whole)
        try:
            for frame, (number, image) in enumerate(numbered_frames(file)):
                name = whole if number is None else f"{stem}_{number:06d}{suffix}"
                yield (name, file, whole, frame), image, ""
        except InputError as error:
            yield (whole, file, whole, 0), None, str(error).removeprefix(f"{file}: ")


# Packed records


class Records:
    """A data set packed by pack(): images (M, height, width, 3) uint8, a memory map, and what is known about each.

    names, attributes, identity, landmarks, partition: as in CelebA, of the M pictures that could be used; skipped: a
    list of (name, reason) for the others.
    """

    def __init__(self, dataset, path, skipped):
        lost = {name for name, _ in skipped}
        keep = np.array([name not in lost for name in dataset.files])
        self.path, self.images, self.skipped = path, np.load(path, mmap_mode="r"), [tuple(row) for row in skipped]
        self.names = list(itertools.compress(dataset.files, keep))
        self.partition = dataset.partition[keep]
        for name in ("attributes", "identity", "landmarks"):
            table = getattr(dataset, name)
            setattr(self, name, None if table is None else table[keep])

    def rows(self, part):
        """int64 array: the rows of a part, "train", "validation" or "test"."""
        return np.flatnonzero(self.partition == PARTS.index(part))

    def describe(self):
        """What tells these pictures from others, in a few words: a training is resumed with the same ones alone."""
        names = " ".join(self.names).encode(errors="surrogateescape")
        return f"{len(self.names)} pictures {zlib.crc32(names):08x}"


def pack(dataset, record_dir, crop, size, workers=0, device="cpu", progress=True):
    """Decode, crop and resize all pictures of a CelebA, once, into one file in record_dir; return its Records.

    crop: "face", the square around the face nearest the centre that MTCNN finds; "whole", the middle of pictures that
    are cropped already; or a box (x, y, width, height) in the 178 x 218 geometry (FULL, SQUARE, MAKEOVER), into which
    pictures that do not have it are brought first. size:
    (height, width). workers: decoding processes besides this one. progress: show a bar and the count of the skipped.
    The file is used again until a picture, the crop or the size changes. Unusable pictures are listed in skipped.tsv.
    InputError: nothing usable, no room, a folder that cannot be written.
    """
    check_crop(crop, size)
    crop, size = crop if isinstance(crop, str) else tuple(crop), tuple(size)
    named = next((name for name, box in CROPS.items() if box == crop), "box-" + "-".join(map(str, crop)))
    place = hashlib.sha256(os.fsencode(dataset.image_dir)).hexdigest()[:6]  # two data sets may have the same name
    name = os.fsdecode(os.fsencode(dataset.root.name)[:150])  # file systems end at 255 bytes
    folder = Path(os.path.abspath(record_dir)) / f"{name}-{place}_{named}_{size[0]}x{size[1]}"
    path = folder / f"{take_fingerprint(dataset, crop, size)}.npy"
    sidecar, listing = path.with_suffix(".json"), folder / "skipped.tsv"
    try:
        skipped = json.loads(sidecar.read_text(encoding="utf-8"))["skipped"]
        records = Records(dataset, path, skipped)
        if records.images.shape != (len(records.names), *size, 3):
            raise ValueError("another shape")
    except (OSError, EOFError, ValueError, KeyError):  # none yet, or none that is whole
        try:
            folder.mkdir(parents=True, exist_ok=True)
            skipped = write_images(path, dataset, crop, size, workers, device, progress)
            write_text(listing, "".join(f"{name}\t{reason}\n" for name, reason in skipped))
            write_text(sidecar, json.dumps({"skipped": skipped}))  # last: it makes the records whole
            for old in folder.glob("*.npy"):
                if old != path:  # of pictures that have changed since
                    old.with_suffix(".json").unlink(missing_ok=True)
                    old.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"{folder} cannot be written ({error.strerror})") from None
        records = Records(dataset, path, skipped)
    if skipped and progress:
        print(f"{len(skipped)} of {len(dataset.files)} pictures skipped: see {listing}")
    return records


def load_records(args, crop, size, device, rank=0, purpose=None):
    """The packed pictures that a script's flags (dataset_dir, record_dir, workers) name; rank 0 packs them first.

    crop, size: as in pack(); of pictures that are cropped already the middle is taken. purpose: what attributes are
    needed for, in a few words. InputError: as CelebA, pack; no attributes.
    """
    if args.dataset_dir is None:
        raise InputError("--dataset_dir is needed: the folder (or zip) with the pictures")
    dataset = CelebA(args.dataset_dir)
    if purpose and dataset.attributes is None:
        raise InputError(f"{args.dataset_dir} has no attributes (list_attr_celeba.txt or .csv): {purpose}")
    if rank:
        dist.barrier()
    crop = "whole" if dataset.cropped else crop
    records = pack(dataset, args.record_dir, crop, size, args.workers, device, progress=rank == 0)
    if rank == 0 and dist.is_initialized():
        dist.barrier()
    return records


def write_text(path, text):
    """Write a text file that is there whole or not at all; names of files may be in any encoding."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def take_fingerprint(dataset, crop, size):
    """A text that changes when a picture, the crop or the size does."""
    digest = hashlib.sha256(repr((FORMAT, crop, size, dataset.aligned)).encode())
    for name in dataset.files:
        with contextlib.suppress(OSError):  # gone since it was listed: pack() skips and names it
            status = os.stat(dataset.image_dir / name)
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def write_images(path, dataset, crop, size, workers, device, progress):
    """Write the .npy file of a data set's crops, all or nothing; return [(name, reason)] of the pictures left out.

    Rows are appended as they come and the header is corrected in the end: only this way is a full disk an error that
    can be caught; a write into a memory map would kill the process.
    """
    check_room(path.parent, len(dataset.files) * size[0] * size[1] * 3, "packing")
    if crop == "face" or crop != "whole" and not dataset.aligned:
        seen = FULL if dataset.aligned else None  # a half-size copy of CelebA gives the faces of CelebA
        decoded = decode_all(dataset, seen, (HEIGHT, WIDTH), workers)
        decoded = (face[:3] for face in cut_faces(decoded, crop, size, MTCNN(device), "centre"))
    else:
        decoded = decode_all(dataset, crop, size, workers)
    skipped, count = [], 0
    with replacing(path) as temporary, open(temporary, "xb") as file:
        write_header(file, len(dataset.files), size)
        for name, image, reason in tqdm(decoded, "packing", len(dataset.files), unit=" pictures", disable=not progress):
            if image is None:
                skipped.append((name, " ".join(reason.split())))
            else:
                file.write(image.tobytes())
                count += 1
        if count == 0:
            reasons = first([f"{name} ({reason})" for name, reason in skipped])
            raise InputError(f"{dataset.image_dir}: none of the {len(skipped)} pictures could be used: {reasons}")
        file.seek(0)
        write_header(file, count, size)
        file.flush()
        os.fsync(file.fileno())
    return skipped


def write_header(file, count, size):
    """The head of a .npy file of count uint8 pictures; as long for any count, as numpy leaves room to grow."""
    head = {"descr": "|u1", "fortran_order": False, "shape": (count, *size, 3)}
    np.lib.format.write_array_header_1_0(file, head)


def decode_all(dataset, crop, size, workers):
    """Yield (name, image or None, why not) of all pictures, in order; decoded by worker processes, if any.

    Only a few chunks are under way at a time, so that memory does not depend on the number of pictures.
    """
    step = 16 if dataset.aligned else 1  # those that are not may be large photos
    chunks = (dataset.files[start : start + step] for start in range(0, len(dataset.files), step))
    work = partial(decode, dataset.image_dir, crop, size)
    if workers == 0 or len(dataset.files) < (FEW if dataset.aligned else FEW / 40):
        yield from itertools.chain.from_iterable(map(work, chunks))
        return
    try:  # spawn: a fork of a process that has threads or a GPU in use may hang
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), follow_parent) as pool:
            waiting = deque()
            for names in chunks:
                waiting.append(pool.submit(work, names))
                if len(waiting) > 2 * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
    except BrokenProcessPool:
        raise InputError("a decoding process was ended from outside (out of memory?): try fewer --workers") from None


def decode(image_dir, crop, size, names):
    """Read pictures and, unless crop is None, cut it: a list of (name, pixels or None, why not)."""
    results = []
    for name in names:
        try:
            image = read_image(image_dir / name)
            if crop is not None:
                image = cut_middle(image, size) if crop == "whole" else cut_box(image, crop, size)
            results.append((name, image, ""))
        except InputError as error:
            results.append((name, None, str(error).removeprefix(f"{image_dir / name}: ")))
    return results


def follow_parent():
    """In a worker process: leave Ctrl-C to the parent, and end when it has ended, however that came."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()


# Batches


def subset(rows, size, seed=0):
    """A seeded choice of rows, sorted: size is a number of them, or a share ("0.5", 0.5, 1.0); None means all.

    A larger choice contains a smaller one of the same seed; more than there are means all. InputError: not a size.
    """
    size = 1.0 if size is None else size
    share = not str(size).strip().isdigit()
    try:
        number = float(size)
        if not (0 < number <= 1 if share else number >= 1):
            raise ValueError
    except (TypeError, ValueError):
        raise InputError(f"size {size}: expected a number of pictures such as 1000 or a share such as 0.5") from None
    count = max(1, round(number * len(rows))) if share else int(number)
    return np.sort(generator(seed).permutation(rows)[:count])


def batches(records, rows, batch_size, device, seed=0, start=0, rank=0, world=1, flip=True):
    """Endless generator of (x, chosen): x (batch_size / world, 3, height, width) float32 in [-1, 1], in channels_last;
    chosen: the rows of records it shows, int64; both on the device.

    Which pictures step k shows, and which of them flipped, depends on seed and k alone: the seeded shuffles of rows,
    one after another, make one endless stream, and step k takes its positions k * batch_size and following, of which
    each of the world processes takes an equal slice by its rank. start: the first step. On CUDA no step waits for the
    host: pictures that fit stay on the device, others are sent from pinned memory while the step before is at work.
    InputError: nothing to draw from, or a batch_size that world does not divide.
    """
    rows, device = np.asarray(rows, np.int64), torch.device(device)
    if len(rows) == 0:
        raise InputError("no pictures to draw batches from")
    if batch_size < 1 or batch_size % world:
        raise InputError(f"batch_size {batch_size}: expected a positive multiple of the {world} processes")
    mine = slice(rank * batch_size // world, (rank + 1) * batch_size // world)
    draw = partial(draw_steps, len(rows), batch_size, seed, mine, flip)
    room = 0.4 * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    stream = stream_resident if len(rows) * records.images[0].nbytes < room else stream_sent
    return stream(records.images, rows, draw, device, start)


def draw_steps(count, batch_size, seed, mine, flip, first, steps=1):
    """What steps from the first on show of count pictures: positions (steps, n) int64 and flips (steps, n) bool.

    mine: the slice of each batch that this process takes.
    """
    stops = np.arange(first * batch_size, (first + steps) * batch_size).reshape(steps, batch_size)[:, mine]
    epochs, offsets = np.divmod(stops, count)
    positions = np.empty_like(stops)
    for epoch in np.unique(epochs).tolist():
        positions[epochs == epoch] = shuffle(count, seed, epoch)[offsets[epochs == epoch]]
    chances = [generator(seed, 1, step).random(batch_size)[mine] for step in range(first, first + steps)]
    return positions, (np.stack(chances) < 0.5) & bool(flip)


@lru_cache(maxsize=8)  # two epochs of each of a few streams
def shuffle(count, seed, epoch):
    """The order of count pictures in an epoch."""
    return generator(seed, 0, epoch).permutation(count)


def stream_resident(images, rows, draw, device, start):
    """The generator of batches() where the pictures fit on the GPU: only what was drawn is sent, for many steps."""
    resident = torch.empty(len(rows), *images.shape[1:], dtype=torch.uint8, device=device)
    for begin in range(0, len(rows), 4096):
        resident[begin : begin + 4096] = torch.from_numpy(images[rows[begin : begin + 4096]]).to(device)
    rows = torch.from_numpy(rows).to(device)

    def draw_ahead(first):
        return [torch.from_numpy(part).pin_memory() for part in draw(first, DRAWN)]

    for drawn in ahead(draw_ahead, itertools.count(start, DRAWN)):
        for positions, flips in zip(*(part.to(device, non_blocking=True) for part in drawn), strict=True):
            yield finish(resident[positions], flips), rows[positions]


def stream_sent(images, rows, draw, device, start):
    """The generator of batches() where every batch is read from the records when it is wanted."""
    cuda = device.type == "cuda"

    def gather(step):
        positions, flips = (part[0] for part in draw(step))
        parts = map(torch.from_numpy, (images[rows[positions]], flips, rows[positions]))
        return [part.pin_memory() for part in parts] if cuda else parts

    for parts in ahead(gather, itertools.count(start)):
        pixels, flips, chosen = (part.to(device, non_blocking=cuda) for part in parts)
        yield finish(pixels, flips), chosen


def ahead(make, numbers):
    """Yield make(number) for each of endless numbers, made in a thread one ahead, whose errors surface here."""
    with ThreadPoolExecutor(1) as thread:  # ends with the generator
        coming = thread.submit(make, next(numbers))
        for number in numbers:
            made, coming = coming.result(), thread.submit(make, number)
            yield made


def finish(pixels, flips):
    """Pixels (N, H, W, 3) uint8 to a batch, where flips (N,) says so in the mirror."""
    return normalise(torch.where(flips[:, None, None, None], pixels.flip(2), pixels))


def normalise(pixels):
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in [-1, 1], channels_last."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_tensor(images, device="cpu"):
    """Pictures (N, H, W, 3) uint8 as a tensor (N, 3, H, W) float32 in [-1, 1] on the device, channels_last."""
    return normalise(torch.from_numpy(np.array(images)).to(device))


def augment(x, numbers, most=0.06):
    """Random similarity transforms of x (N, 3, H, W): rotation, scale and shift, each uniform up to `most`.

    Rotation in radians, shift as a share of half the picture; edges are reflected. numbers: (4, N) in [0, 1).
    """
    angle, scale, right, down = (numbers * 2 - 1) * most
    cos, sin = (1 + scale) * angle.cos(), (1 + scale) * angle.sin()
    rows = [torch.stack([cos, -sin, right], 1), torch.stack([sin, cos, down], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), x.shape, align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def face_weights(size, box, on_face, around, shrink=1, device="cpu"):
    """What each pixel of an aligned picture counts: on_face in an oval on the face, then, without a seam, around.

    size: (h, w) of the picture; box: what it shows of CelebA's, (x, y, width, height); shrink: how many of the
    picture's pixels, along a side, one of the result is. Returns (h // shrink, w // shrink).
    """
    (y, x), (left, top, width, height) = (torch.arange(n // shrink, device=device) + 0.5 for n in size), box
    x = left + x * shrink * width / size[1] - FACE[0] - FACE[2] / 2  # CelebA's pixels from the middle of the face
    y = top + y * shrink * height / size[0] - FACE[1] - FACE[3] / 2
    radius = torch.hypot(x / (0.4 * FACE[2]), y[:, None] / (0.5 * FACE[3]))  # 1 at the rim of the oval
    return around + (on_face - around) * (4 * (1.125 - radius)).clamp(0, 1)


def to_uint8(x):
    """The inverse of to_tensor: (N, H, W, 3) uint8, a numpy array; values outside [-1, 1] are clamped."""
    x = x.detach().float().add(1).mul(127.5).round().clamp(0, 255)
    return x.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


# The check


def report(dataset):
    """Print what was found."""
    sizes = sorted({f"{width} x {height}" for width, height in dataset.sizes})
    count = len(dataset.files)
    parts = [f"{(dataset.partition == code).sum()} {part}" for code, part in enumerate(PARTS)]
    people = "none" if dataset.identity is None else f"{len(np.unique(dataset.identity))} people"
    origin = {kind: f", from {source}" if source else "" for kind, source in dataset.sources.items()}
    print(f"layout      {dataset.layout}, {dataset.root}")
    print(f"pictures    {count} in {dataset.image_dir}, {' / '.join(sizes) or 'none of a few could be read'}")
    print(f"geometry    {'aligned as CelebA is' if dataset.aligned else 'not aligned: faces are found by MTCNN'}")
    print(f"attributes  {'none' if dataset.attributes is None else len(ATTRIBUTES)}{origin['attributes']}")
    print(f"identities  {people}{origin['identity']}")
    print(f"landmarks   {'none' if dataset.landmarks is None else '5 per picture'}{origin['landmarks']}")
    print(f"partition   {' / '.join(parts)}, {dataset.partition_source}")
    for problem in dataset.problems:
        print(f"note        {problem}")


def main():
    """The command line."""
    tolerate_names()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", type=os.path.expanduser, required=True, help="folder or zip to look at")
    parser.add_argument("--download", action="store_true", help="first fetch CelebA into --dataset_dir (needs gdown)")
    parser.add_argument("--full", action="store_true", help="decode every picture and list the damaged ones")
    parser.add_argument(
        "--record_dir", type=os.path.expanduser, help="also pack the pictures into records there, ahead of a training"
    )
    parser.add_argument("--crop", default="face", choices=CROPS, help="crop of the records")
    parser.add_argument("--size", type=int, nargs="+", default=[64], help="of the records: side, or height and width")
    parser.add_argument("--workers", type=int, default=0, help="decoding processes")
    args = parser.parse_args()
    try:
        if args.workers < 0 or not 1 <= len(args.size) <= 2:
            raise InputError("expected --workers of at least 0, and one or two numbers for --size")
        if args.download:
            download(args.dataset_dir)
        dataset = CelebA(args.dataset_dir)
        report(dataset)
        if args.full:
            decoded = decode_all(dataset, FULL, (1, 1), args.workers)
            damaged = [(name, why) for name, image, why in tqdm(decoded, total=len(dataset.files)) if image is None]
            for name, why in damaged:
                print(f"damaged     {name}: {why}")
            print(f"decoded     {len(dataset.files) - len(damaged)} of {len(dataset.files)} pictures")
        if args.record_dir:
            size = args.size[0], args.size[-1]
            device = "cuda" if torch.cuda.is_available() else "cpu"
            records = pack(dataset, args.record_dir, CROPS[args.crop], size, args.workers, device)
            print(f"packed      {len(records.names)} pictures: {records.path}")
    except KeyboardInterrupt:
        sys.exit("stopped")
    except (InputError, OSError) as error:
        sys.exit(fail(str(error)))


if __name__ == "__main__":
    main()
