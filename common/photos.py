"""Photos, GIFs and videos: the one reader and the one writer of them. All pictures are RGB, (H, W, 3), uint8."""

import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

IMAGE_TYPES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
VIDEO_TYPES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF")  # the decoders that Pillow may try
MAX_PIXELS = 200_000_000


class InputError(ValueError):
    """A mistake of the person at the keyboard, or a picture that cannot be used; the message is one line."""


# Reading


def read_image(path):
    """Return the picture as (H, W, 3) uint8 RGB, upright, transparency on white, greyscale and 16 bit converted.

    An animated GIF gives its first frame. InputError: missing, empty, damaged, no picture, above 200 million pixels.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if not data:
        raise InputError(f"{path}: the file is empty")
    with open_image(path) as image:
        # cv2 decodes a JPEG twice as fast but fills what is missing with grey, so it gets whole ones only:
        # those that end with the end-of-image marker.
        if image.format == "JPEG" and image.mode in ("RGB", "L") and data.rstrip(b"\0").endswith(b"\xff\xd9"):
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
            if pixels is not None:
                return pixels
        return decode(image, path)


def open_image(path):
    """Open a picture with Pillow, header only; InputError where it is none or too large."""
    Image.MAX_IMAGE_PIXELS = None  # our own limit is below; Pillow's would only warn
    try:
        image = Image.open(path, formats=FORMATS)
    except Exception as error:  # decoders of damaged files raise almost anything
        raise InputError(f"{path}: not a picture, or damaged ({type(error).__name__})") from None
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise InputError(f"{path}: {image.width} x {image.height} pixels, more than {MAX_PIXELS // 10**6} million")
    return image


def decode(image, path, frame=0):
    """Decode a frame of a Pillow image to (H, W, 3) uint8 RGB."""
    try:
        image.seek(frame)
        if image.mode.startswith("I") or image.mode == "F":
            image = to_8_bit(image)
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("RGB"))
    except Exception as error:  # as above
        raise InputError(f"{path}: damaged or cut short ({error})") from None


def to_8_bit(image):
    """Scale a 16-bit (or wider, or floating-point) greyscale Pillow image to 8 bits, keeping its EXIF orientation."""
    pixels = np.asarray(image)
    if image.mode != "F":
        pixels = pixels / 257
    elif pixels.max() <= 1:
        pixels = pixels * 255
    scaled = Image.fromarray(np.clip(pixels.round(), 0, 255).astype(np.uint8))
    scaled.info["exif"] = image.getexif().tobytes()
    return scaled


def numbered_frames(path, every=1):
    """Yield (number, image) for every n-th frame of a video, a GIF or an animated WebP, (None, image) for a picture.

    InputError: what read_image refuses, or a video whose codec cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() in VIDEO_TYPES:
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # our one line instead of the libraries' many
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        number = 0
        while video.grab():
            if number % every == 0:
                read, frame = video.retrieve()
                if read:
                    yield number, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            number += 1
        video.release()
        if number == 0:
            raise InputError(f"{path}: no video, or none that OpenCV can decode: convert it to H.264 in an .mp4")
    elif path.suffix.lower() in (".gif", ".webp") and path.is_file() and path.stat().st_size:
        with open_image(path) as image:
            try:
                count = getattr(image, "n_frames", 1)
            except Exception as error:  # as in decode()
                raise InputError(f"{path}: damaged or cut short ({error})") from None
            for number in range(0, count, every):
                yield number if count > 1 else None, decode(image, path, number)
    else:
        yield None, read_image(path)


def read_frames(path, every=1):
    """Yield (name, image) for a picture (one), or for every n-th frame of a video, a GIF or an animated WebP.

    The name is that of the file without suffix, for a frame with its number: clip_000012. InputError: what read_image
    refuses, or a video whose codec cannot be read.
    """
    for number, image in numbered_frames(path, every):
        yield Path(path).stem + ("" if number is None else f"_{number:06d}"), image


def is_hidden(path):
    """Whether a file, or a folder above it, has a name that begins with a dot."""
    return any(part.startswith(".") for part in path.parts)


def media_files(paths):
    """Return the pictures and videos among files and folders (recursive, sorted, hidden ones left out) as Paths.

    A file that is named itself is taken whatever its suffix. InputError: a path that is missing, or nothing found.
    """
    files, paths = [], [paths] if isinstance(paths, (str, Path)) else list(paths)
    for path in map(Path, paths):
        if path.is_dir():
            found = (file for file in path.rglob("*") if file.suffix.lower() in IMAGE_TYPES + VIDEO_TYPES)
            files += sorted(file for file in found if file.is_file() and not is_hidden(file.relative_to(path)))
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"{path}: no such file or folder")
    if not files:
        raise InputError(f"{', '.join(map(str, paths)) or 'nothing'}: no pictures or videos in there")
    return files


def frames(files):
    """Yield (name, image, "") for every frame of the files (clip_000012.mp4), (name, None, why not) for a bad file."""
    for path in files:
        try:
            for name, image in read_frames(path):
                yield name + path.suffix, image, ""
        except InputError as error:
            yield path.name, None, str(error).removeprefix(f"{path}: ")


def name_outputs(names):
    """Output names without suffix, kept apart where they would be equal (also where capitals do not count)."""
    taken = {parent.as_posix().lower() for name in names for parent in Path(name).parents}
    stems = []
    for name in names:
        wanted = stem = Path(name).with_suffix("").as_posix()
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

    like: the file that the pictures come from, whose pauses (GIF) or frames per second (video) are kept; else rate,
    pictures per second. Use it in a with statement; what was not kept (see keep) is gone at the end.
    InputError: the codec is missing, several pictures for one still, a folder or disk that cannot be written.
    """

    def __init__(self, path, like=None, rate=25):
        self.path, self.like, self.rate = Path(path), like, rate
        self.kind = self.path.suffix.lower()
        self.temporary = self.path.with_name(f".part_{self.path.name}")
        self.pictures, self.video = [], None

    def __enter__(self):
        return self

    def add(self, picture):
        """Append a picture; all of a video must have one size."""
        if self.kind in VIDEO_TYPES:
            if self.video is None:
                self.video = self.open_video(picture.shape[1::-1])
            self.video.write(np.ascontiguousarray(picture[..., ::-1]))
            return
        if self.pictures and self.kind != ".gif":
            raise InputError(f"{self.like or self.path} is animated: convert it to a GIF or a video")
        self.pictures.append(Image.fromarray(picture))

    def open_video(self, size):
        """OpenCV's writer of a video of this (width, height)."""
        rate = self.rate
        if self.like is not None:
            video = cv2.VideoCapture(str(self.like), cv2.CAP_FFMPEG)
            rate = video.get(cv2.CAP_PROP_FPS) or 25
            video.release()
        code = "MJPG" if self.kind == ".avi" else "mp4v"
        video = cv2.VideoWriter(str(self.temporary), cv2.VideoWriter_fourcc(*code), rate, size)
        if not video.isOpened():
            raise InputError(f"{self.path}: OpenCV cannot write this kind of video here: try .mp4 or .avi")
        return video

    def pauses(self):
        """Milliseconds for each picture of a GIF."""
        if self.like is None:
            return [round(1000 / self.rate)] * len(self.pictures)
        pauses = []
        with Image.open(self.like) as gif:
            for number in range(len(self.pictures)):
                gif.seek(min(number, gif.n_frames - 1))
                pauses.append(gif.info.get("duration") or 100)
        return pauses

    def keep(self):
        """All pictures were added: make the file."""
        try:
            if self.video is not None:
                self.video.release()
            elif self.kind == ".gif":
                first, *others = self.pictures
                first.save(self.temporary, save_all=True, append_images=others, duration=self.pauses(), loop=0)
            else:
                self.pictures[0].save(self.temporary, quality=95)
            os.replace(self.temporary, self.path)
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error}") from None

    def __exit__(self, *_):
        if self.video is not None:
            self.video.release()
        self.temporary.unlink(missing_ok=True)


def save_pictures(folder, names, pictures):
    """Write pictures (N, H, W, 3) uint8 as PNG files into a folder, one per name, which may have sub-folders."""
    for name, picture in zip(names, pictures, strict=True):
        path = Path(folder) / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)


def write_film(path, pictures, rate=16):
    """Write pictures (N, H, W, 3) uint8 as path.gif and path.mp4, in the video enlarged to at least 256 pixels."""
    height, width = pictures.shape[1:3]
    zoom = max(1, 256 / min(height, width))
    size = round(width * zoom), round(height * zoom)
    path = Path(path)
    with Writer(path.with_suffix(".gif"), rate=rate) as gif, Writer(path.with_suffix(".mp4"), rate=rate) as video:
        for picture in pictures:
            gif.add(picture)
            video.add(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC))
        gif.keep()
        video.keep()
