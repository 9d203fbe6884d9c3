"""Pictures that several tests share."""

import shutil

import cv2
import numpy as np
from PIL import Image

RED = (250, 10, 20)


def sketch():
    """A face of shaded ellipses, (320, 280, 3)."""
    y, x = np.mgrid[0:320, 0:280].astype(np.float64)
    image = np.full((320, 280, 3), 90.0)

    def paint(cx, cy, rx, ry, colour, shade=0.0):
        distance = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2
        inside = np.clip((1 - np.sqrt(distance)) * min(rx, ry), 0, 1)[..., None]
        image[:] = image * (1 - inside) + inside * np.array(colour) * (1 - shade * distance.clip(0, 1)[..., None])

    paint(140, 150, 92, 118, (60, 40, 30))  # hair
    paint(140, 165, 72, 96, (225, 180, 150), 0.35)  # skin
    for cx in (108, 172):
        paint(cx, 122, 21, 5, (70, 45, 35))  # brow
        paint(cx, 144, 17, 8, (245, 240, 235))  # eye
        paint(cx, 144, 8, 8, (50, 35, 30))
    paint(140, 172, 9, 26, (238, 196, 166))  # nose
    paint(132, 192, 6, 4, (140, 90, 75))
    paint(148, 192, 6, 4, (140, 90, 75))
    paint(140, 220, 30, 9, (170, 70, 70))  # mouth
    paint(140, 220, 28, 2, (90, 30, 30))
    return image.round().clip(0, 255).astype(np.uint8)


def flat(height, width, colour=RED):
    return np.full((height, width, 3), colour, np.uint8)


def is_red(image):
    return (abs(image.astype(int) - RED) < 30).all()


def write_video(path, frames):
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (width, height))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()


def photos(faces, folder, count=2):
    """A folder with the first of the drawn faces, and a photo without one."""
    folder.mkdir()
    for path in sorted((faces / "img_align_celeba").iterdir())[:count]:
        shutil.copy(path, folder)
    Image.new("RGB", (120, 120), "green").save(folder / "no_face.png")
    return folder
