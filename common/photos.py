"""Photos, GIFs and videos: the one reader and the one writer of them. All pictures are RGB, (H, W, 3), uint8."""

import contextlib
import math
import os
import secrets
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, PngImagePlugin

IMAGE_TYPES = (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".png", ".apng", ".bmp", ".dib", ".webp", ".avif", ".gif",
               ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")  # fmt: skip
VIDEO_TYPES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".3gp")
ANIMATED = (".gif", ".webp", ".png", ".apng", ".avif")
TEXT_TYPES = (".txt", ".csv", ".tsv", ".json", ".md", ".html", ".xml", ".npy", ".zip", ".pt", ".py", ".ini", ".db")
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "TIFF", "PPM", "GIF", "AVIF")  # the decoders that Pillow may try
MAX_PIXELS = 200_000_000
WIDE = 1088  # pixels that a sheet is enlarged to at most: 16 pictures of 64 stay as they are
EXIF_TAGS = (270, 271, 272, 305, 306, 315, 33432)  # of a TIFF, those that say what is shown, by whom, with what
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # our one line instead of the libraries' many
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "protocol_whitelist;file")  # a playlist fetches nothing
PngImagePlugin.MAX_TEXT_CHUNK = 2**26  # of a colour profile too, which Pillow otherwise refuses from 1 MB on


class InputError(ValueError):
    """A mistake of the person at the keyboard, or a picture that cannot be used; the message is one line."""


def fail(message, code=2):
    """Print one line on stderr; returns the exit code, 2 for a person's mistake."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code


def run_script(main):
    """Call a script's main(); a person's mistake ends in one line and exit code 2, Ctrl-C in another and 130."""
    try:
        main()
    except InputError as error:
        sys.exit(fail(str(error)))
    except KeyboardInterrupt:
        sys.exit(fail("stopped", code=130))


def tolerate_names():
    """What a terminal cannot show or say, such as a file's name in another encoding, is replaced and no error."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a notebook's
            stream.reconfigure(errors="replace")


# Reading


def read_image(path):
    """Return the picture as (H, W, 3) uint8 RGB, upright, transparency on white, greyscale and 16 bit converted.

    Of an animation the first frame, of a TIFF the first page. InputError: missing, empty, damaged, no picture, above
    200 million pixels.
    """
    with open_image(path) as image:
        # cv2 decodes a JPEG twice as fast but fills what is missing with grey, so it gets whole ones only:
        # those that end with the end-of-image marker.
        if image.format == "JPEG" and image.mode in ("RGB", "L"):
            data = Path(path).read_bytes()
            if data.rstrip(b"\0").endswith(b"\xff\xd9"):
                with contextlib.suppress(cv2.error):
                    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
                    if pixels is not None:
                        return pixels
        return decode(image, path)


@contextlib.contextmanager
def open_image(path):
    """A picture opened with Pillow, header only; InputError where it is none or too large.

    Pillow gets a file and no name: by its name it maps an uncompressed TIFF into memory, with its sides exchanged
    where it lies on its side.
    """
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses twice that, in each frame of an animation too
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # a folder, or a pipe, which would be waited for
            raise InputError(f"{path}: no file")
        file = open(path, "rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    with file:
        if not os.fstat(file.fileno()).st_size:
            raise InputError(f"{path}: the file is empty")
        try:
            with quiet():
                image = Image.open(file, formats=FORMATS)
        except Image.DecompressionBombError:
            raise InputError(f"{path}: more than {MAX_PIXELS // 10**6} million pixels") from None
        except Exception as error:  # decoders of damaged files raise almost anything
            raise InputError(f"{path}: not a picture, or damaged ({type(error).__name__})") from None
        with image:
            yield image


@contextlib.contextmanager
def quiet():
    """Without Pillow's warnings, of odd tags in files that it reads all the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode(image, path, frame=0):
    """Decode a frame of a Pillow image to (H, W, 3) uint8 RGB."""
    try:
        with quiet():
            image.seek(frame)
            if image.mode.startswith("I") or image.mode == "F":
                image = to_8_bit(image)
            image = ImageOps.exif_transpose(image)
            return np.array(on_white(image.convert("RGBA")) if image.has_transparency_data else image.convert("RGB"))
    except Exception as error:  # as above
        raise InputError(f"{path}: damaged or cut short ({error})") from None


def on_white(image):
    """An RGBA Pillow image blended with white, RGB."""
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    return white


def to_8_bit(image):
    """Scale a 16-bit (or wider, or floating-point) greyscale Pillow image to 8 bits, keeping its EXIF orientation."""
    pixels = np.asarray(image)
    if image.mode != "F":
        pixels = (pixels.clip(0, 65535).astype(np.uint32) + 128) // 257
    else:
        pixels = np.nan_to_num(pixels)
        pixels = (pixels * 255 if pixels.max() <= 1 else pixels).round().clip(0, 255)
    scaled = Image.fromarray(pixels.astype(np.uint8))
    scaled.info["exif"] = image.getexif().tobytes()
    return scaled


def numbered_frames(path, every=1):
    """Yield (number, image) for every n-th frame of a video or animation, (None, image) for a picture.

    InputError: what read_image refuses, or a video whose codec cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() in VIDEO_TYPES:
        if not os.path.isfile(path):  # missing, or a pipe, which would be waited for
            raise InputError(f"{path}: no file")
        number = 0
        with open_video(path) as video:
            while video.grab():
                if number % every == 0:
                    read, frame = video.retrieve()
                    if read:
                        yield number, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                number += 1
        if number == 0:
            raise InputError(f"{path}: no video, or none that OpenCV can decode: convert it to H.264 in an .mp4")
        return
    if path.suffix.lower() in ANIMATED:
        with open_image(path) as image:
            try:
                count = getattr(image, "n_frames", 1)
            except Exception as error:  # as in decode()
                raise InputError(f"{path}: damaged or cut short ({error})") from None
            if count > 1 and image.format in ("GIF", "WEBP", "PNG", "AVIF"):  # not the pages of a TIFF
                for number in range(0, count, every):
                    yield number, decode(image, path, number)
                return
    yield None, read_image(path)


@contextlib.contextmanager
def plain_path(path):
    """A path to give to OpenCV instead, which takes 12:30.mp4 for an address and dies of a name that is not UTF-8."""
    path = os.path.abspath(path)
    with contextlib.ExitStack() as stack:
        if path.encode("utf-8", "replace").decode() != path:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            link = os.path.join(folder, "link" + Path(path).suffix.encode("ascii", "ignore").decode())
            os.symlink(path, link)
            path = link
        yield path


@contextlib.contextmanager
def open_video(path):
    """OpenCV's reader of a video."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    with plain_path(path) as plain:
        video = cv2.VideoCapture(plain, cv2.CAP_FFMPEG)
        try:
            yield video
        finally:
            video.release()


def visible(name):
    """Whether a file or folder counts: not hidden, and not what macOS adds to zips."""
    return not name.startswith((".", "__MACOSX"))


def files_below(folder, unread):
    """Sorted names of the visible files in a folder and those below it, relative to it, with forward slashes.

    Links are followed, but each folder is read once and those that folder itself lies in are not: no loops. What cannot
    be read is appended to unread.
    """
    seen, links, names = set(map(str, Path(os.path.realpath(folder)).parents)), [""], []
    while links:
        start = os.path.join(folder, links.pop(0))
        for place, folders, files in os.walk(start, onerror=lambda error: unread.append(error.filename)):
            real, inside = os.path.realpath(place), Path(os.path.relpath(place, folder)).as_posix()
            folders[:] = sorted(filter(visible, folders)) if real not in seen else []
            if real not in seen:
                prefix = "" if inside == "." else inside + "/"
                links += [prefix + name for name in folders if os.path.islink(os.path.join(place, name))]
                names += [prefix + name for name in files if visible(name)]
            seen.add(real)
    return sorted(names)


def list_below(folder, types):
    """(names, notes): of files_below() those of these types; how many others there are, each that cannot be read."""
    unread = []
    files = files_below(folder, unread)
    suffixes = [os.path.splitext(name)[1].lower() for name in files]
    others = Counter(s or "without suffix" for s in suffixes if s not in types + TEXT_TYPES)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
    notes = [f"{others.total()} files that are not read (save pictures as .jpg): {kinds}"] if others else []
    notes += [f"{path} cannot be read" for path in unread]
    return [name for name, suffix in zip(files, suffixes, strict=True) if suffix in types], notes


def named_files(paths):
    """The pictures and videos among files and folders (recursive, sorted, hidden ones left out): Paths, and names.

    A file that is named itself is taken whatever its suffix. A name is the path within the folder that was given, or as
    much more of it as tells the file from another; files of other kinds are counted on stderr.
    InputError: a path that is missing, or nothing found.
    """
    files, names, notes, paths = [], [], [], [paths] if isinstance(paths, (str, Path)) else list(paths)
    for path in map(Path, paths):
        if os.path.isdir(path):
            found, told = list_below(path, IMAGE_TYPES + VIDEO_TYPES)
            found = [name for name in found if os.path.isfile(path / name) or os.path.islink(path / name)]
            files += [path / name for name in found]
            names += found
            notes += [f"{path}: {note}" for note in told]
        elif os.path.isfile(path):
            files.append(path)
            names.append(path.name)
        else:
            raise InputError(f"{path}: no such file or folder")
    if not files:
        where = ", ".join(map(str, paths)) or "nothing"
        raise InputError(f"{where}: no pictures or videos in there" + "".join(f"; {note}" for note in notes))
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return files, tell_apart(files, names)


def tell_apart(files, names):
    """Names of files, with as many more of the folders above as it takes to tell those that are equal apart."""
    names, whole = list(names), [Path(os.path.abspath(file)) for file in files]
    while True:
        count = Counter(names)
        longer = {i: len(Path(name).parts) + 1 for i, name in enumerate(names) if count[name] > 1}
        longer = {i: Path(*whole[i].parts[-n:]).as_posix() for i, n in longer.items() if n < len(whole[i].parts)}
        if not longer:
            return names
        for i, name in longer.items():
            names[i] = name


def name_outputs(names):
    """Output names without suffix, kept apart where they would be equal (also where capitals do not count).

    Cut to 240 bytes, which leaves room for a number and a suffix: file systems end at 255.
    """
    taken = {parent.as_posix().lower() for name in names for parent in Path(name).parents}
    stems = []
    for name in names:
        short = Path(name).stem
        while len(os.fsencode(short)) > 240:
            short = short[:-1]
        wanted = stem = Path(name).with_name(short).as_posix()
        number = 1
        while stem.lower() in taken:
            number += 1
            stem = f"{wanted}_{number}"
        taken.add(stem.lower())
        stems.append(stem)
    return stems


# Writing


class Writer:
    """Pictures (H, W, 3) uint8 to one file, whole or not at all: a video, a GIF or a still picture by its suffix.

    like: the file that the pictures come from, of which is kept what the new one can hold (a still picture's colour
    profile, EXIF, resolution and transparency; a GIF's pauses and loop; a video's rhythm), and `lost` says what it
    cannot; else rate, pictures per second. Use it in a with statement; what was not kept (see keep) is gone at the end.
    InputError: the codec is missing, several pictures for one still, a folder or disk that cannot be written.
    """

    def __init__(self, path, like=None, rate=25):
        self.path, self.like, self.rate = Path(path), like, rate
        self.kind = self.path.suffix.lower()
        # Short, since a name may be as long as names can be.
        self.temporary = self.path.with_name(f".part_{secrets.token_hex(4)}{self.kind}")
        self.pictures, self.video, self.times, self.lost, self.stack = [], None, [], [], contextlib.ExitStack()

    def __enter__(self):
        return self

    def add(self, picture):
        """Append a picture; all of a video must have one size."""
        if self.kind in VIDEO_TYPES:
            odd = picture.shape[0] % 2, picture.shape[1] % 2  # which OpenCV would cut off
            picture = np.pad(picture, ((0, odd[0]), (0, odd[1]), (0, 0)), "edge")
            if self.video is None:
                self.lost += [f"an odd size: now {picture.shape[1]} x {picture.shape[0]}"] if any(odd) else []
                self.video = self.open_video(picture.shape[1::-1])
            for _ in range(self.times.pop(0) if self.times else 1):
                self.video.write(np.ascontiguousarray(picture[..., ::-1]))
            return
        if self.pictures and self.kind != ".gif":
            raise InputError(f"{self.like or self.path} is animated: convert it to a GIF or a video")
        self.pictures.append(Image.fromarray(picture))

    def open_video(self, size):
        """OpenCV's writer of a video of this (width, height)."""
        rate = self.rate
        if self.like is not None:
            rate, self.times = rhythm(self.like)
            steady = f"a varying frame rate: now {rate:.3g} a second, some frames repeated"
            self.lost += [steady] * bool(self.times) + ["sound, if it had any"]
        code = "MJPG" if self.kind == ".avi" else "mp4v"
        folder = self.stack.enter_context(plain_path(self.path.parent))
        plain = os.path.join(folder, self.temporary.name)
        video = cv2.VideoWriter(plain, cv2.VideoWriter_fourcc(*code), rate, size)
        if not video.isOpened():
            raise InputError(f"{self.path}: OpenCV cannot write this kind of video here: try .mp4 or .avi")
        return video

    def save_gif(self):
        """The GIF, with the pauses of its source in milliseconds, and as often round as that."""
        first, *others = self.pictures
        pauses, loop = [round(1000 / self.rate)] * len(self.pictures), dict(loop=0)
        if self.like is not None:
            pauses = []
            with open_image(self.like) as gif, quiet():
                for number in range(len(self.pictures)):
                    with contextlib.suppress(Exception):  # a frame too many, or a damaged one
                        gif.seek(number)
                    pauses.append(gif.info.get("duration") or 100)
                loop = {"loop": gif.info["loop"]} if "loop" in gif.info else {}
                self.lost += ["transparency: now white"] * gif.has_transparency_data
        first.save(self.temporary, save_all=True, append_images=others, duration=pauses, **loop)

    def save_still(self):
        """The picture, with what its source has beside pixels."""
        picture, extras = self.pictures[0], {}
        if self.like is not None:
            with open_image(self.like) as source, quiet():
                extras = read_extras(source, self.lost)
                picture = keep_transparency(source, picture, self.kind, self.lost)
        for without in ((), ("exif",), ("exif", "icc_profile", "dpi")):  # one that the format cannot hold
            kept = {name: value for name, value in extras.items() if name not in without}
            try:
                # A PNG at level 2 is a seventh larger than at the usual 6, and there in a quarter of the time.
                picture.save(self.temporary, quality=95, compress_level=2, **kept)
                break
            except OSError:  # the disk
                raise
            except Exception as error:  # ValueError, struct.error, TypeError ...
                if not kept:  # a WebP of more than 16383 pixels, for instance
                    raise InputError(f"{self.path} cannot be written: {error}") from None
        self.lost += [name for name in extras if name not in kept]

    def keep(self):
        """All pictures were added: make the file."""
        try:
            if self.video is not None:
                self.video.release()
            elif self.kind == ".gif":
                self.save_gif()
            else:
                self.save_still()
            os.replace(self.temporary, self.path)
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error}") from None

    def __exit__(self, *_):
        if self.video is not None:
            self.video.release()
        self.stack.close()
        with contextlib.suppress(OSError):
            self.temporary.unlink(missing_ok=True)


def rhythm(path):
    """Frames per second of a video, and how often to write each frame so that it is seen as long as it was: where the
    frame rate varies, else [] for once each.
    """
    times = []
    with open_video(path) as video:
        rate = video.get(cv2.CAP_PROP_FPS)
        while video.grab():
            times.append(video.get(cv2.CAP_PROP_POS_MSEC))
    gaps = np.diff(times)
    if not 0 < rate < np.inf:
        rate = 25
    if len(gaps) == 0 or (gaps <= 0).any() or (np.abs(gaps - 1000 / rate) < 2 + 250 / rate).all():
        return rate, []
    rate = min(60.0, round(1000 / gaps.min(), 3))
    return rate, [*np.diff(np.round(np.array(times) * rate / 1000)).astype(int).tolist(), 1]


def read_extras(source, lost):
    """Colour profile, EXIF and resolution of an open Pillow image, as save() takes them; what is not goes to lost."""
    extras, profile = {}, source.info.get("icc_profile")
    if profile and profile[16:20] == b"RGB ":
        extras["icc_profile"] = profile
    elif profile:
        lost.append("a colour profile that is not for RGB")
    stored = [part[3] for part in getattr(source, "tile", ())]  # Pillow opens 16-bit RGB as RGB; what it reads says so
    stored = [how[0] if isinstance(how, tuple) and how else how for how in stored]
    deep = source.mode.startswith("I") or any(isinstance(how, str) and ";16" in how for how in stored)
    if deep or source.mode not in ("RGB", "RGBA", "L", "LA", "P", "PA", "1", "RGBX"):
        lost.append(f"{'16 bits' if deep else source.mode}: now RGB, 8 bits")
    lost += ["the second picture in the file"] * (source.format == "MPO")
    try:
        exif = upright_exif(source)
        extras |= {"exif": exif.tobytes()} if len(exif) else {}
    except Exception:  # there is no end to what damaged EXIF raises
        lost.append("EXIF, which is damaged")
    if "dpi" in source.info:
        extras["dpi"] = source.info["dpi"]
    return extras


def upright_exif(source):
    """The EXIF of an open Pillow image, of a picture that has been turned upright."""
    exif, kept = source.getexif(), Image.Exif()
    for tag, value in exif.items():  # of a TIFF, its tags are what describes its pixels as well
        if tag in EXIF_TAGS or source.format != "TIFF" and tag not in (0x0112, 0x8769, 0x8825):
            kept[tag] = value
    for tag in (0x8769, 0x8825):  # Exif's own part, and the place
        if part := exif.get_ifd(tag):
            kept[tag] = dict(part)
    return kept


def keep_transparency(source, picture, kind, lost):
    """A picture with the transparency of its source, where the kind of file can hold it; what did not change is exact.

    The colours were blended with white when the source was read: where they have changed that is taken back.
    """
    if not source.has_transparency_data:
        return picture
    source = ImageOps.exif_transpose(source).convert("RGBA")
    if kind not in (".png", ".webp", ".tif", ".tiff") or source.size != picture.size:
        lost.append("transparency: now white")
        return picture
    now, before, pixels = np.array(picture), np.array(on_white(source)), np.array(source)
    changed = (now != before).any(2)
    alpha = pixels[changed, 3:] / 255
    pixels[changed, :3] = ((now[changed] - (1 - alpha) * 255) / np.maximum(alpha, 1 / 255)).round().clip(0, 255)
    return Image.fromarray(pixels)


def save_pictures(folder, names, pictures):
    """Write pictures (N, H, W, 3) uint8 as PNG files into a folder, one per name, which may have sub-folders."""
    for name, picture in zip(names, pictures, strict=True):
        path = Path(folder) / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)


def save_sheet(path, rows, columns=16):
    """Write a sheet of pictures as PNG: rows maps a label to (N, H, W, 3) uint8, each in lines of `columns`.

    A sheet of a few small pictures is enlarged, up to four times. Returns it as (H, W, 3) uint8.
    """
    widths = [min(columns, len(pictures)) * (pictures.shape[2] + 2) + 2 for pictures in rows.values()]
    factor = max(1, min(4, WIDE // max(widths)))
    font, strips = ImageFont.load_default(15), []
    for label, pictures in rows.items():
        across = max(1, min(columns, len(pictures)))
        # Black pictures fill up the last line, and black lines are above and to the left of each picture.
        cells = np.pad(pictures, ((0, -len(pictures) % across), (2, 0), (2, 0), (0, 0)))
        grid = cells.reshape(-1, across, *cells.shape[1:]).swapaxes(1, 2).reshape(-1, across * cells.shape[2], 3)
        grid = Image.fromarray(np.pad(grid, ((0, 2), (0, 2), (0, 0))))
        grid = np.asarray(grid.resize((grid.width * factor, grid.height * factor), Image.Resampling.BICUBIC))
        if label:
            label = label.encode("latin-1", "replace").decode("latin-1")  # the letters that Pillow's own font has
            strip = Image.new("RGB", (max(grid.shape[1], math.ceil(font.getlength(label)) + 8), 22), "white")
            ImageDraw.Draw(strip).text((4, 2), label, fill="black", font=font)
            strips.append(np.asarray(strip))
        strips.append(grid)
    width = max(strip.shape[1] for strip in strips)
    sheet = np.concatenate([np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path)
    return sheet


def write_film(path, pictures):
    """Write pictures (N, H, W, 3) uint8 as path.gif and path.mp4, in the video enlarged to at least 256 pixels."""
    height, width = pictures.shape[1:3]
    zoom = max(1, 256 / min(height, width))
    size = round(width * zoom), round(height * zoom)
    with Writer(path.with_suffix(".gif"), rate=16) as gif, Writer(path.with_suffix(".mp4"), rate=16) as video:
        for picture in pictures:
            gif.add(picture)
            video.add(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC))
        gif.keep()
        video.keep()


# Folders and tables


def new_folder(path, overwrite, make=True):
    """A folder to write into; where --overwrite lets it have files already, says that they stay.

    InputError: it is not empty and --overwrite was not given, or cannot be made.
    """
    path = Path(path)
    try:
        full = os.path.isdir(path) and any(path.iterdir())
        if os.path.exists(path) and (not path.is_dir() or full and not overwrite):
            raise InputError(f"--out_dir {path} is not an empty folder: name another, or add --overwrite")
        if make:
            path.mkdir(parents=True, exist_ok=True)
            if full:
                print(f"{path} is not empty: of what lies there, files of the same names are replaced, all others stay")
    except OSError as error:
        raise InputError(f"{path} cannot be written to ({error.strerror})") from None
    return path


def keep_apart(out_dir, pictures):
    """InputError: the folder to write into and one that pictures are read from lie in one another."""
    target = Path(out_dir).resolve()
    for path in map(Path, pictures):
        folder = (path if path.is_dir() else path.parent).resolve()
        if target == folder or folder in target.parents and path.is_dir() or target in folder.parents:
            where = f"--out_dir {out_dir} and {folder}, where the pictures are"
            raise InputError(f"{where}, lie in one another: name another")


def check_writable(flag, file):
    """InputError where a file cannot be made under this name; leaves nothing behind."""
    made = [folder for folder in file.absolute().parents if not os.path.exists(folder)]
    test = file.with_name(file.name + ".tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        if not test.exists():
            test.touch()
            test.unlink()
    except OSError as error:
        raise InputError(f"{flag}: {file} cannot be written ({error.strerror}): name another place") from None
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def write_table(path, title, rows):
    """A table with tabs: results, and the manifests that benchmarks/quality.py reads. Names are written as they are."""
    blank = {9: " ", 10: " ", 13: " "}  # a file may have a tab in its name
    lines = ["\t".join(str(value).translate(blank) for value in row) for row in [title, *rows]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
