"""Pictures, annotation files and flags as nobody should have them, by chance: what is wrong must be said in one line.

    python tests/fuzz.py --rounds 1000 --seed 1            (make fuzz; every part in a process of its own)
    python tests/fuzz.py --part flags:dapgan --rounds 1 --seed 1234    (one round again)

A finding is a traceback, a crash, more than LIMIT seconds, more than 2 GB of memory, or something that was written
outside of the folders that were named.
"""

import argparse
import contextlib
import importlib
import io
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import traceback
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from common.photos import InputError, Writer, named_files, numbered_frames
from common.synthetic import draw, write

PROJECTS = ("hyperencoder", "dapgan", "facegen_attr", "deep_makeover", "face_math")
PARTS = ("pictures", "annotations", "folders", *(f"flags:{project}" for project in PROJECTS))
LIMIT = 60  # seconds a round may take
MEMORY = 2 * 2**30


# What is mutated


def encode(image, kind, **options):
    """The bytes of a picture, or of an animation where append_images is given."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def corpus(folder):
    """Name -> bytes: a small face in every format that is read, with what files carry beside pixels."""
    pixels = draw(5)[0][40:200:2, 20:160:2]
    image = Image.fromarray(pixels)
    exif, clear = Image.Exif(), image.convert("RGBA")
    exif[0x0112], exif[0x010F], exif[0x8825] = 6, "Maker", {1: "N"}
    clear.putalpha(Image.fromarray(pixels[..., 0]))
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    more = dict(save_all=True, append_images=[image.rotate(9), image.rotate(33)], duration=70)
    extras = dict(exif=exif.tobytes(), icc_profile=bytes(16) + b"RGB " + bytes(200), dpi=(300, 300))
    files = {
        "a.jpg": encode(image, "JPEG", **extras), "b.jpg": encode(image, "JPEG", progressive=True),
        "c.jpg": encode(image.convert("CMYK"), "JPEG"), "d.jpg": encode(image.convert("L"), "JPEG"),
        "e.jpg": encode(image, "MPO", save_all=True, append_images=[image.rotate(9)]),
        "a.png": encode(image, "PNG", **extras), "b.png": encode(clear, "PNG"), "c.png": encode(deep, "PNG"),
        "d.png": encode(image.quantize(), "PNG", transparency=3), "e.png": encode(image.convert("1"), "PNG"),
        "f.png": encode(image, "PNG", **more), "a.gif": encode(image, "GIF", **more), "b.gif": encode(clear, "GIF"),
        "a.webp": encode(image, "WEBP", **extras), "b.webp": encode(clear, "WEBP", lossless=True),
        "c.webp": encode(image, "WEBP", **more), "a.avif": encode(image, "AVIF"),
        "b.avif": encode(image, "AVIF", **more),
        "a.tif": encode(image, "TIFF", **extras), "b.tif": encode(image, "TIFF", compression="tiff_lzw"),
        "c.tif": encode(deep, "TIFF", exif=exif.tobytes()), "d.tif": encode(image.convert("F"), "TIFF"),
        "e.tif": encode(image.convert("CMYK"), "TIFF"), "f.tif": encode(image, "TIFF", compression="jpeg"),
        "g.tif": encode(image, "TIFF", **more), "a.bmp": encode(image, "BMP"), "b.bmp": encode(image.quantize(), "BMP"),
        "a.ppm": encode(image, "PPM"), "a.pgm": encode(image.convert("L"), "PPM"), "b.pgm": encode(deep, "PPM"),
        "a.pbm": encode(image.convert("1"), "PPM"),
    }  # fmt: skip
    for name in ("a.mp4", "a.avi", "a.mkv", "a.mov"):
        with Writer(folder / name) as video:
            for shift in range(6):
                video.add(np.roll(pixels, shift, 1))
            video.keep()
        files[name] = (folder / name).read_bytes()
        (folder / name).unlink()
    return files


def mutate(data, other, rng):
    """Bytes with one to four faults; other: bytes of another kind, of which some may get in."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at, size = int(rng.integers(len(data) + 1)), int(rng.integers(1, 64))
        at = min(at, int(rng.integers(200))) if rng.random() < 0.5 else at  # headers are where it hurts
        match rng.integers(9):
            case 0:
                for place in rng.integers(len(data) or 1, size=8 if data else 0):
                    data[place] ^= 1 << int(rng.integers(8))
            case 1:
                del data[at:]
            case 2:
                data[:size] = other[:size]
            case 3:
                data[at:at] = rng.bytes(size)
            case 4:
                del data[at : at + size]
            case 5:
                data[at : at + size] = bytes(len(data[at : at + size]))
            case 6:
                number = int(rng.choice([0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 60_000, 13_000]))
                data[at : at + 4] = struct.pack(rng.choice(["<I", ">I"]), number)
            case 7:
                data[at:at] = data[at : at + size] * int(rng.integers(1, 50))
            case 8:
                data[at:] = other[at:]
    return bytes(data)


def mend_checksums(data):
    """A PNG with the checksums of its chunks made right, so that a fault gets further than them."""
    out, at = data[:8], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 8 + size]
        out, at = out + data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body)), at + 12 + size
    return out


# The parts: a round each is a function of a random generator and a folder of its own


def pictures(files):
    """Rounds of mutated pictures and videos: read, and written again with what they carry."""

    def play(rng, folder):
        names = sorted(files)
        name, other = rng.choice(names, 2)
        data = mutate(files[name], files[other], rng)
        if name.endswith("png") and rng.random() < 0.7:
            data = mend_checksums(data)
        suffix = os.path.splitext(other if rng.random() < 0.1 else name)[1]
        path = folder / f"p{suffix}"
        path.write_bytes(data)
        with expected():
            shown = None
            for number, image in numbered_frames(path):
                assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3, image.shape
                shown = image if shown is None else shown
                if number is not None and number > 40:
                    break
            kinds = [".png", ".jpg", ".tif", ".webp", ".gif"] if number is None else [".gif", ".mp4"]
            with Writer(folder / f"q{rng.choice(kinds)}", like=path) as writer:
                writer.add(shown[:2000, :2000])
                writer.keep()

    return play


def annotations(tables):
    """Rounds of mutated annotation files beside good ones, below a folder of pictures."""
    from common.celeba import CelebA

    def play(rng, folder):
        (folder / "img_align_celeba").symlink_to(tables["pictures"])
        bad = rng.choice(sorted(tables["files"]))
        for name, data in tables["files"].items():
            if name == bad:
                lines = data.split(b"\n")
                if rng.random() < 0.4:
                    at, to = rng.integers(len(lines), size=2)
                    lines[at] = rng.choice([b"", lines[to], lines[to] + b" 1", b"\x00", b"../../x.jpg 1", b"nan " * 41])
                    data = b"\n".join(lines)
                else:
                    data = mutate(data, rng.choice([b"\xff\xfe1\x00", b"<!DOCTYPE html>", bytes(400)]), rng)
                data = data.decode(errors="replace").encode("utf-16") if rng.random() < 0.05 else data
            suffix = ".csv" if rng.random() < 0.1 else ".txt"
            (folder / name).with_suffix(suffix).write_bytes(data)
        with expected():
            dataset = CelebA(folder)
            assert len(dataset.files) == len(dataset.partition)

    return play


def folders(_):
    """Rounds of folders with odd names, links, loops and kinds of files."""
    face = encode(Image.fromarray(draw(5)[0]), "JPEG")
    parts = [b"a", b"b", b".hidden", b"caf\xe9", "漢字".encode(), b"x" * 200, b"a b", b"12:30", b"50%d", b"-x", b"~",
             b"a\nb", b"img_align_celeba", b"celeba", b"__MACOSX"]  # fmt: skip
    kinds = [b".jpg", b".JPEG", b".jfif", b".png", b".heic", b"", b".mp4", b".txt", b".zip", b".gif"]

    def play(rng, folder):
        from common.celeba import CelebA

        places = [os.fsencode(folder)]
        for _ in range(rng.integers(1, 12)):
            place = bytes(rng.choice(len(places))) and places[rng.integers(len(places))]
            path = os.path.join(place, parts[rng.integers(len(parts))])
            with contextlib.suppress(OSError):
                match rng.integers(4):
                    case 0:
                        os.mkdir(path)
                        places.append(path)
                    case 1:
                        os.symlink(os.path.relpath(places[rng.integers(len(places))], place), path)
                    case 2:
                        os.mkfifo(path + kinds[rng.integers(len(kinds))])
                    case _:
                        data = rng.choice([0, 1, 2], p=[0.1, 0.1, 0.8])
                        with open(path + kinds[rng.integers(len(kinds))], "xb") as file:
                            file.write([b"", b"x", face][data])
        with expected():
            for file in named_files(folder)[0]:
                with expected():
                    list(numbered_frames(file))
        with expected():
            CelebA(folder)

    return play


@contextlib.contextmanager
def expected():
    """An InputError of one line is what is expected of what is wrong; all others are findings."""
    try:
        yield
    except InputError as error:
        assert "\n" not in " ".join(str(error).split("\n")), error  # plumbing's fail() joins what names bring along


def actions_of(project):
    """The flags of a project, as its parser has them."""
    found = []

    class Seen(Exception):
        pass

    def look(parser, *_, **__):
        found.extend(action for action in parser._actions if action.option_strings and action.dest != "help")
        raise Seen

    before, argparse.ArgumentParser.parse_known_args = argparse.ArgumentParser.parse_known_args, look
    try:
        importlib.import_module(f"{project}.main").parse_args([])
    except Seen:
        pass
    finally:
        argparse.ArgumentParser.parse_known_args = before
    return found


NUMBERS = "-1 0 1 2 3 7 16 32 64 100 999999999 0.5 1e-9 1e9 nan inf -inf 1.5 0x10 ٣ 1_0 1e400".split()
WORDS = ["", " ", "x", "None", "True", "false", "Male", "Male=1", "Male=1,Smiling=0", "Male=2", "=", ",", "1,2", "1,1",
         "49,90,80,100", "0,0,178,218", "auto", "cpu", "cuda:7", "none", "10", "all", "-", "--", "漢", "caf\udce9",
         "%s", "{}", "../x", "a/b", "x" * 300, "0.5", "a\tb"]  # fmt: skip
PLACES = ["faces", "nest", "file", "new", "none/deeper", "file/below", "junk.pt", "nest/face.jpg", "empty", "~",
          "~/new", "nest/clip.gif", "/proc/none", "x" * 300, "nest/bad.jpg"]  # fmt: skip
SAFE = dict(workers=("0", "1"), steps=("0", "1", "2"), epoch=("0", "1"), port=("-1", "99999"), web=("False", "maybe"),
            n_iter=("0", "1", "3"), count=("1", "2", "5"), frames=("2", "3"), restarts=("1", "2"))  # fmt: skip


def draw_value(action, rng):
    """A value for a flag: often one of its kind, sometimes any."""
    if action.dest in SAFE:
        return rng.choice(SAFE[action.dest])
    if action.choices and rng.random() < 0.8:
        return str(rng.choice(list(map(str, action.choices))))
    if re.search("_dir|_path|file|images|_from|_model|minus|plus|mask", action.dest) and rng.random() < 0.9:
        return str(rng.choice(PLACES))
    kind = rng.random()
    return str(rng.choice(NUMBERS if kind < 0.6 else WORDS if kind < 0.9 else PLACES))


def flags(project):
    """Rounds of a project's main() with flags by chance, in a folder that has a data set, photos and junk."""
    from trainings import SMALL

    actions, script = actions_of(project), importlib.import_module(f"{project}.main")
    small = dict(zip(*[iter(SMALL[project].split())] * 2, strict=True)) | {"--workers": "0", "--steps": "1"}
    places = {f"--{name}": name for name in ("record_dir", "checkpoint_dir", "model_path", "sample_dir")}

    def play(rng, folder):
        chosen = {"--dataset_dir": "faces", **places, **small}
        verbs = next(action for action in actions if action.dest == "run").choices
        chosen["--run"] = rng.choice([*verbs, "train"])
        line = []
        for action in rng.choice(np.array(actions, object), rng.integers(1, 5)):
            if action.nargs == 0:
                line.append(action.option_strings[0])
                continue
            values = [draw_value(action, rng) for _ in range(1 if action.nargs != "+" else rng.integers(1, 4))]
            chosen.pop(action.option_strings[0], None)
            line += [f"{action.option_strings[0]}={values[0]}"] if action.nargs != "+" else []
            line += (
                [action.option_strings[0], *(v for v in values if not v.startswith("-"))] if action.nargs == "+" else []
            )
        line = [part for pair in chosen.items() for part in pair] + line
        outside = {
            path: path.stat().st_mtime_ns for path in [*folder.glob("faces/*"), *folder.glob("nest/*"), folder / "file"]
        }
        errors, printed = io.StringIO(), io.StringIO()
        code = 0
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(printed):
            try:
                script.main(list(map(str, line)))
            except SystemExit as stop:
                code = stop.code
        text = errors.getvalue()
        why = [part for part in re.split(r"[\r\n]", text) if part.startswith("error: ")]
        assert code in (0, None, 1, 2), f"exit code {code}: {line}"
        assert "Traceback" not in text and (code != 2 or len(why) == 1), f"{line}: {text}"
        assert {path: path.stat().st_mtime_ns for path in outside} == outside, f"{line}: changed what is not its own"
        odd = {path.name for path in folder.iterdir()} - known(chosen, line, folder)
        assert not odd, f"{line}: wrote {odd}"

    return play


def known(chosen, line, folder):
    """What may lie in the folder that a command was given: what was there, and the first parts of what it named."""
    words = [word.partition("=")[2] or word for word in line]
    named = {os.path.expanduser(word).split("/")[0] for word in words} | {
        Path(os.path.expanduser(w)).name for w in words
    }
    return named | {"faces", "nest", "file", "junk.pt", "empty", "inference_out.png", "inference_out.gif"}


# Rounds


class TooLong(BaseException):
    """No Exception, which whoever reads damaged files would take for one of the decoder's."""


def prepare(part, folder):
    """What the rounds of a part share; returns its play(rng, folder), and what to copy into each round's folder."""
    if part == "pictures":
        return pictures(corpus(folder)), None
    if part == "annotations":
        write(folder / "drawn", 12, identities=4)
        files = {path.name: path.read_bytes() for path in (folder / "drawn").glob("*.txt")}
        return annotations(dict(pictures=folder / "drawn/img_align_celeba", files=files)), None
    if part == "folders":
        return folders(None), None
    start = folder / "start"
    write(start / "faces", 60, identities=6)
    (start / "nest").mkdir()
    (start / "empty").mkdir()
    image = Image.fromarray(draw(5)[0])
    image.save(start / "nest/face.jpg")
    image.save(start / "nest/clip.gif", save_all=True, append_images=[image.rotate(5)])
    (start / "nest/bad.jpg").write_bytes(b"\xff\xd8\xff")
    (start / "file").write_text("mine")
    (start / "junk.pt").write_bytes(b"junk")
    return flags(part.partition(":")[2]), start


def run_part(part, rounds, seed, say=print):
    """Play rounds, the seeds of which count up from seed; returns the findings, (seed, text) each."""
    found, here = [], Path.cwd()
    project_files = {path for project in PROJECTS for path in (ROOT / project).iterdir()}

    def too_long(*_):
        raise TooLong(f"more than {LIMIT} seconds")

    signal.signal(signal.SIGALRM, too_long)
    with tempfile.TemporaryDirectory() as top:
        play, start = prepare(part, Path(top))
        for number in range(seed, seed + rounds):
            folder = Path(top) / "round"
            shutil.copytree(start, folder) if start else folder.mkdir()
            os.chdir(folder)
            os.environ["HOME"] = str(folder)
            signal.alarm(LIMIT)
            try:
                play(np.random.default_rng(number), folder)
            except BaseException as error:
                signal.alarm(0)
                where = "".join(traceback.format_exception(error)[-3:])
                found.append((number, f"{type(error).__name__}: {where}"))
                say(f"{part}, seed {number}: {ascii(where[-1500:])}")
                if isinstance(error, KeyboardInterrupt):
                    raise
            finally:
                signal.alarm(0)
                os.chdir(here)
                shutil.rmtree(folder)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            if peak > MEMORY:
                found.append((number, f"{peak / 2**30:.1f} GB of memory"))
                say(f"{part}, seed {number}: {peak / 2**30:.1f} GB of memory")
                break
    new = {path for project in PROJECTS for path in (ROOT / project).iterdir()} - project_files
    new = {path for path in new if path.name != "__pycache__"}
    return found + [(seed, f"wrote {new}")] * bool(new)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=1000, help="of pictures; a quarter of that of flags, each project"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first round; the next has the next number")
    parser.add_argument("--part", choices=PARTS, help="that part alone, in this process")
    args = parser.parse_args(argv)
    if args.part:
        found = run_part(args.part, args.rounds, args.seed)
        print(f"{args.part}: {args.rounds} rounds from seed {args.seed}, {len(found)} findings")
        sys.exit(1 if found else 0)
    failed = False
    for part in PARTS:
        rounds = max(1, args.rounds // 4) if part.startswith("flags") else args.rounds
        command = [sys.executable, __file__, "--part", part, "--rounds", str(rounds), "--seed", str(args.seed)]
        code = subprocess.run(
            command, env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        ).returncode
        if code < 0:
            print(f"{part}: ended by signal {-code}")
        failed |= code != 0
    sys.exit(failed)


if __name__ == "__main__":
    main()
