"""Drawn faces with exactly known attributes, written to disk as a CelebA data set.

    python common/synthetic.py --out_dir faces --count 4000 --seed 0

Every picture is a portrait of one of `identities` invented people: the person fixes the shape of the head, the skin,
the eyes, the hair and the beard; the picture adds pose, light, expression, glasses, hat, make-up and background. Heads
are modelled in three dimensions, in CelebA's pixels, with the origin between the eyes, x to the right of the picture,
y down and z towards the viewer; they are turned, aligned as CelebA's faces are, and painted at twice the size.
The same seed gives the same bytes, whatever the number of worker processes.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import threading
import time
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository root
from common.mtcnn import TEMPLATE
from common.photos import InputError, tolerate_names

WIDTH, HEIGHT, SCALE = 178, 218, 2  # painted at SCALE times the size, then averaged down

# What each of CelebA's 40 columns means here. A column says what the picture shows: under a hat there are no bangs.
MEANING = {
    "5_o_Clock_Shadow": "stubble: cheeks, chin and upper lip speckled darker",
    "Arched_Eyebrows": "brows that rise to a peak, instead of flat ones",
    "Attractive": "a formula: Young, with Oval_Face, High_Cheekbones or Heavy_Makeup, and without Bald, Big_Nose, "
    "Bags_Under_Eyes, Chubby and Double_Chin",
    "Bags_Under_Eyes": "dark crescents under the eyes",
    "Bald": "no hair on the head, and no hat on it",
    "Bangs": "a fringe down to the brows",
    "Big_Lips": "lips about twice as thick",
    "Big_Nose": "a wide nose with a round tip",
    "Black_Hair": "hair colour (at most one of the four; red hair has none of them; nor has a bald head)",
    "Blond_Hair": "hair colour",
    "Blurry": "the whole picture out of focus",
    "Brown_Hair": "hair colour",
    "Bushy_Eyebrows": "brows twice as thick and darker",
    "Chubby": "wide cheeks and jaw",
    "Double_Chin": "a second chin below the first",
    "Eyeglasses": "glasses with a visible frame",
    "Goatee": "beard on the chin",
    "Gray_Hair": "hair colour",
    "Heavy_Makeup": "coloured eye shadow and dark lashes (always with Wearing_Lipstick)",
    "High_Cheekbones": "bright cheekbones above hollow cheeks",
    "Male": "square jaw, thick neck, low thick brows, thin pale lips, no long lashes, mostly short hair",
    "Mouth_Slightly_Open": "a dark gap or teeth between the lips",
    "Mustache": "hair on the upper lip",
    "Narrow_Eyes": "eyes half as open",
    "No_Beard": "none of 5_o_Clock_Shadow, Goatee, Mustache and Sideburns (women never have any)",
    "Oval_Face": "a long face that tapers to the chin, instead of a blunt one",
    "Pale_Skin": "the lightest, rosy-white skin",
    "Pointy_Nose": "a thin nose with a sharp tip",
    "Receding_Hairline": "a high hairline with bare temples",
    "Rosy_Cheeks": "red cheeks",
    "Sideburns": "beard in front of the ears, down to the jaw",
    "Smiling": "corners of the mouth up and wide, cheeks raised",
    "Straight_Hair": "hair of fine straight strands (neither: smooth, glossy hair)",
    "Wavy_Hair": "hair in waves, with a wavy outline",
    "Wearing_Earrings": "earrings, drawn over the hair",
    "Wearing_Hat": "a cap, a beanie or a hat with a brim",
    "Wearing_Lipstick": "lips in a strong colour",
    "Wearing_Necklace": "a chain or pearls around the neck",
    "Wearing_Necktie": "a tie with a collar",
    "Young": "without wrinkles",
}

# how a head differs from the average one, in standard deviations
SHAPE = """face_width jaw chin eye_distance eye_size eye_tilt brow_height nose_length nose_width mouth_width
    mouth_height lips forehead ears""".split()
HAIR = {
    "Black_Hair": (40, 35, 37),
    "Blond_Hair": (222, 184, 108),
    "Brown_Hair": (104, 64, 38),
    "Gray_Hair": (176, 177, 182),
    "Red_Hair": (168, 72, 32),
}
SKIN = np.array([(108, 68, 47), (146, 94, 65), (184, 127, 92), (212, 158, 124), (228, 180, 148)], np.float32)
PALE = (250, 228, 218)


# ---------------------------------------------------------------- who is drawn, and how


def person(rng, male):
    """What stays the same in every picture of one person, drawn from rng: a dict of attributes, shape and colours."""

    def chance(woman, man):
        return int(rng.random() < (man if male else woman))

    young = chance(0.62, 0.58)
    p = {"Male": int(male), "Young": young, "Bald": chance(0, 0.07 if young else 0.2)}
    colours = (0.33, 0.29, 0.3, 0.02, 0.06) if young else (0.21, 0.2, 0.18, 0.36, 0.05)
    p["hair"] = str(rng.choice(list(HAIR), p=colours))
    p["length"] = str(rng.choice(["short", "medium", "long"], p=(0.8, 0.13, 0.07) if male else (0.13, 0.22, 0.65)))
    p["strands"] = str(rng.choice(["Straight_Hair", "Wavy_Hair", "smooth"], p=(0.37, 0.37, 0.26)))
    p["parting"] = float(rng.choice([-14, 0, 14]) + rng.normal(0, 2))
    p["Receding_Hairline"] = chance(0.02, 0.1 if young else 0.35)
    p["Bangs"] = 0 if p["Receding_Hairline"] else chance(0.36, 0.2)
    p["Arched_Eyebrows"], p["Bushy_Eyebrows"] = chance(0.5, 0.25), chance(0.15, 0.4)
    nose = rng.choice(["Big_Nose", "Pointy_Nose", ""], p=(0.36, 0.28, 0.36) if male else (0.2, 0.4, 0.4))
    p["Big_Nose"], p["Pointy_Nose"] = int(nose == "Big_Nose"), int(nose == "Pointy_Nose")
    p["Big_Lips"], p["Narrow_Eyes"] = chance(0.38, 0.25), chance(0.22, 0.25)
    p["Chubby"] = chance(0.12, 0.15)
    p["Double_Chin"] = int(rng.random() < (0.5 if p["Chubby"] else 0.03))
    p["Oval_Face"] = 0 if p["Chubby"] else chance(0.5, 0.35)
    p["High_Cheekbones"], p["Pale_Skin"] = chance(0.45, 0.35), chance(0.13, 0.09)
    p["Bags_Under_Eyes"] = int(rng.random() < (0.15 if young else 0.4))
    beards = ["", "5_o_Clock_Shadow", "Mustache", "Goatee", "Mustache Goatee", "Sideburns", "Mustache Goatee Sideburns"]
    beard = rng.choice(beards, p=(0.24, 0.2, 0.11, 0.11, 0.12, 0.07, 0.15))
    p.update({name: int(male and name in beard) for name in ("5_o_Clock_Shadow", "Mustache", "Goatee", "Sideburns")})
    p["makeup"] = chance(0.6, 0)  # whether she wears make-up at all
    p["shape"] = dict(zip(SHAPE, np.clip(rng.normal(0, 1, len(SHAPE)), -2, 2).round(3).tolist(), strict=True))
    tone, light = rng.beta(1.5, 1) * (len(SKIN) - 1), rng.normal(0, 4)
    skin = PALE if p["Pale_Skin"] else [np.interp(tone, range(len(SKIN)), channel) for channel in SKIN.T]
    p["skin"] = [float(value + light) for value in skin]
    eyes = [(70, 42, 24), (96, 62, 34), (84, 112, 70), (82, 124, 168), (110, 128, 140)]
    p["eyes"] = [float(v) for v in eyes[int(rng.choice(5, p=(0.35, 0.2, 0.15, 0.2, 0.1)))]]
    return p


def occasion(rng, someone):
    """The same person in one picture: someone's dict (see person) and pose, light, expression, dress, background."""
    p = dict(someone)
    woman = not p["Male"]

    def chance(share):
        return int(rng.random() < share)

    p["Smiling"] = chance(0.48)
    p["Mouth_Slightly_Open"] = chance(0.52 if p["Smiling"] else 0.34)
    p["Eyeglasses"], p["Wearing_Hat"] = chance(0.2 if p["Young"] else 0.28), chance(0.13)
    p["Heavy_Makeup"] = chance(0.7 * p["makeup"])
    p["Wearing_Lipstick"] = max(p["Heavy_Makeup"], chance(0.8 * p["makeup"]))
    p["Rosy_Cheeks"] = chance(0.4 if p["Heavy_Makeup"] else 0.16 if woman else 0.06)
    p["Wearing_Earrings"], p["Wearing_Necklace"] = chance(0.4 if woman else 0.04), chance(0.3 if woman else 0.05)
    p["Wearing_Necktie"] = 0 if p["Wearing_Necklace"] else chance(0.02 if woman else 0.22)
    p["Blurry"] = chance(0.06)
    p["yaw"] = round(float(np.clip(rng.normal(0, 13), -30, 30)), 2)
    p["pitch"] = round(float(np.clip(rng.normal(0, 5), -12, 12)), 2)
    p["roll"] = round(float(np.clip(rng.normal(0, 2.5), -7, 7)), 2)
    p["scale"] = round(float(np.clip(rng.normal(1, 0.03), 0.92, 1.08)), 4)
    p["shift"] = rng.normal(0, 1.2, 2).round(2).tolist()
    p["lighting"] = round(float(rng.uniform(-60, 60)), 1)
    p["brightness"] = round(float(rng.uniform(0.88, 1.06)), 3)
    p["gaze"] = round(float(np.clip(rng.normal(0, 0.8), -2, 2)), 2)
    p["details"] = int(rng.integers(2**31))  # seeds what no column tells: background, clothes, kind of hat and frame
    return p


def parameters(seed, identity=0, picture=0):
    """The dict that draw takes, for one picture of one person; each depends on nothing but these three numbers."""
    someone = person(np.random.default_rng([seed, identity]), male=(seed + identity) % 2)
    return occasion(np.random.default_rng([seed, identity, picture + 1]), someone)


def visible(p):
    """The 40 columns (name -> 0 or 1) that a drawing of p shows: p's own, less those that exclude one another."""
    a = {name: int(p.get(name, 0)) for name in MEANING}
    if not a["Male"]:
        a.update({"5_o_Clock_Shadow": 0, "Goatee": 0, "Mustache": 0, "Sideburns": 0})
    a["5_o_Clock_Shadow"] &= not (a["Goatee"] or a["Mustache"] or a["Sideburns"])
    a["No_Beard"] = int(not (a["5_o_Clock_Shadow"] or a["Goatee"] or a["Mustache"] or a["Sideburns"]))
    a["Receding_Hairline"] &= not (p["Bald"] or p["Wearing_Hat"])
    a["Bangs"] &= not (p["Bald"] or p["Wearing_Hat"] or a["Receding_Hairline"])
    for name in HAIR:
        if name in MEANING:
            a[name] = int(p["hair"] == name and not p["Bald"])
    for name in ("Straight_Hair", "Wavy_Hair"):  # too little of short hair is left below a hat to tell
        a[name] = int(p["strands"] == name and not p["Bald"] and not (p["Wearing_Hat"] and p["length"] == "short"))
    a["Bald"] &= not p["Wearing_Hat"]
    a["Pointy_Nose"] &= not a["Big_Nose"]
    a["Oval_Face"] &= not a["Chubby"]
    a["Wearing_Lipstick"] |= a["Heavy_Makeup"]
    a["Wearing_Necktie"] &= not a["Wearing_Necklace"]
    pretty = a["Oval_Face"] or a["High_Cheekbones"] or a["Heavy_Makeup"]
    plain = p["Bald"] or a["Big_Nose"] or a["Bags_Under_Eyes"] or a["Chubby"] or a["Double_Chin"]
    a["Attractive"] = int(a["Young"] and pretty and not plain)
    return a


# ---------------------------------------------------------------- tools to paint with


@lru_cache
def spline(count, closed):
    """Matrix (m, count) that turns count control points into a smooth curve (Catmull-Rom, six points a piece)."""
    pieces = count if closed else count - 1
    t = np.arange(6)[:, None] / 6
    weights = np.hstack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3]) / 2
    matrix = np.zeros((pieces * 6 + (not closed), count), np.float32)
    for piece in range(pieces):
        for k in range(4):
            column = piece - 1 + k
            column = column % count if closed else min(max(column, 0), count - 1)
            matrix[piece * 6 : piece * 6 + 6, column] += weights[:, k]
    if not closed:
        matrix[-1, -1] = 1
    return matrix


@lru_cache
def textures():
    """Hair and grain, (700, 700) uint8 around 128: "Straight_Hair", "Wavy_Hair", "smooth" and "grain"."""
    noise = np.random.default_rng(0).standard_normal((700, 700)).astype(np.float32)

    def level(picture, contrast):
        return np.clip(128 + contrast * (picture - picture.mean()) / picture.std(), 0, 255)

    straight = level(cv2.GaussianBlur(noise, (0, 0), sigmaX=3, sigmaY=70), 52)
    x, y = np.meshgrid(np.arange(700, dtype=np.float32), np.arange(700, dtype=np.float32))
    phase = y / 8 + 2 * np.sin(x / 60)
    wavy = cv2.remap(straight, x + 11 * np.sin(phase), y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    wavy = np.clip(wavy + 45 * np.sin(phase + x / 25), 0, 255)
    smooth = level(cv2.GaussianBlur(noise, (0, 0), sigmaX=9, sigmaY=14), 7)
    kinds = {"Straight_Hair": straight, "Wavy_Hair": wavy, "smooth": smooth, "grain": level(noise, 22)}
    return {kind: texture.astype(np.uint8) for kind, texture in kinds.items()}


# how much of shade, colour and light (columns) is in each of 256 levels
RAMP = np.array([np.interp(np.arange(256), (0, 150, 255), row) for row in np.eye(3)], np.float32).T


def ramp(colour):
    """Palette (256, 1, 3) uint8 from colour in shade through colour (at 150) to colour in light; shade is warmer."""
    colour = np.float32(colour)
    shade = colour * np.float32((0.38, 0.3, 0.27))
    light = np.minimum(colour * 1.35, 255) * 0.85 + colour.mean() * 0.15 + 20
    return np.clip(RAMP @ np.stack([shade, colour, light]), 0, 255).astype(np.uint8)[:, None]


def mixed(colour, other, share):
    """Colour moved towards other by share in [0, 1]."""
    return [(1 - share) * a + share * b for a, b in zip(colour, other, strict=True)]


def solid(points):
    """Points (x, y, z), or (x, y) for those on the face, a flattened cylinder -> (n, 3) float32."""
    full = [
        (*point, 42 * max(0, 1 - (point[0] / 56) ** 2) ** 0.5)[:3] if len(point) == 2 else point for point in points
    ]
    return np.array(full, np.float32)


def both(points):
    """Outline symmetric in x from its right half, top to bottom."""
    return [*points, *[(-x, *rest) for x, *rest in points[::-1] if x]]


def oval(x, y, rx, ry, *z, corner=0.7071):
    """Control points of an ellipse, or with a larger corner a rounder rectangle; z: its depth, else on the face."""
    r, q = rx * corner, ry * corner
    ring = [(rx, 0), (r, q), (0, ry), (-r, q), (-rx, 0), (-r, -q), (0, -ry), (r, -q)]
    return [(x + u, y + v, *z) for u, v in ring]


class Portrait:
    """One picture being painted: where points of the head fall, and the canvas.

    p: the dict of parameters; a: the 40 visible columns. Points are lists of (x, y) on the face or (x, y, z), in head
    coordinates (see above); place brings them to the canvas. With pair=True, their mirror images are painted as well.
    """

    def __init__(self, p, a):
        self.p, self.a, self.s = p, a, p["shape"]
        # uniform numbers for what no column tells, fixed in their place: changing one part leaves the others alone
        self.random = np.random.default_rng(p["details"]).random((40, 8))
        self.eye, self.nose = 19.5 + 0.8 * self.s["eye_distance"], 24 + 1.5 * self.s["nose_length"]
        self.mouth = 42 + 1.3 * self.s["mouth_height"] + a["Male"] + a["Big_Lips"]
        self.half = (21.5 if a["Smiling"] else 15.5) + self.s["mouth_width"]
        self.corner = self.mouth - (5.5 if a["Smiling"] else -0.8)
        self.gap = a["Mouth_Slightly_Open"] * (9.5 if a["Smiling"] else 6.5)
        self.away = -np.sign(p["lighting"]) or 1  # the side in shade
        self.dark = mixed(p["skin"], (28, 0, 0), 0.58)
        self.outline, self.side, self.jaw, self.chin = self.contour()

        yaw, pitch, roll = np.radians([p["yaw"], p["pitch"], p["roll"]])
        around_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
        around_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
        self.camera, self.shift = (around_x @ around_y).T, 0
        mouth = [(-self.half, self.corner), (self.half, self.corner)]
        points = [(-self.eye, 0), (self.eye, 0), (0, self.nose, 60), *mouth]
        # aligned as CelebA's faces are, by the similarity (a complex factor and a shift) that fits best; then moved
        found, target = self.place(points) @ (1, 1j), TEMPLATE @ (1, 1j)
        centred = found - found.mean()
        factor = (centred.conj() @ (target - target.mean())) / (np.abs(centred) ** 2).sum()
        factor *= SCALE * p["scale"] * np.exp(1j * roll)
        shift = (target.mean() + complex(*p["shift"])) * SCALE + (SCALE - 1) * (0.5 + 0.5j) - found.mean() * factor
        self.camera[:, :2] = self.camera[:, :2] @ [[factor.real, factor.imag], [-factor.imag, factor.real]]
        self.camera, self.shift = self.camera.astype(np.float32), np.float32((shift.real, shift.imag))
        self.unit = abs(factor)  # canvas pixels per unit of the head
        self.landmarks = (self.place(points) - (SCALE - 1) / 2) / SCALE
        self.canvas = np.zeros((HEIGHT * SCALE, WIDTH * SCALE, 3), np.uint8)

    def contour(self):
        """Outline of the face without hair and ears; its half widths at the temples and at the jaw; the chin's y."""
        a, s = self.a, self.s
        side = 45 + 1.3 * s["face_width"] + 4 * a["Chubby"]
        cheek = side - 3 + 5 * a["Chubby"] - 2.5 * a["Oval_Face"]
        jaw = 33.5 + 1.4 * s["jaw"] + 7.5 * a["Male"] + 6 * a["Chubby"] - 7 * a["Oval_Face"]
        chin = 73 + 1.5 * s["chin"] + 5 * a["Male"] + 6 * a["Oval_Face"]
        blunt = 16 + 6 * a["Male"] + 4 * a["Chubby"] - 4 * a["Oval_Face"]
        upper = [(0, -74, -8), (24, -69, -5), (39, -52, 2), (side - 1, -24, 6), (side, 4, 9)]
        outline = [*upper, (cheek, 30, 12), (jaw, 54, 18), (blunt, chin - 7, 30), (blunt * 0.45, chin, 35)]
        return both(outline), side, jaw, chin

    def place(self, points):
        """Points of the head -> (n, 2) canvas pixels, turned and seen from about a metre and a half."""
        turned = (points if isinstance(points, np.ndarray) else solid(points)) @ self.camera
        return turned[:, :2] / (1 - turned[:, 2:] / 900) + self.shift

    def curves(self, points, pair=False, closed=True):
        """Control points -> list of smooth curves in canvas pixels: one, or two with pair."""
        smooth, count, points = spline(len(points), closed), len(points), solid(points)
        placed = self.place(np.concatenate([points, points * np.float32((-1, 1, 1))]) if pair else points)
        return [smooth @ placed[i : i + count] for i in range(0, len(placed), count)]

    def area(self, points, paint, pair=False, **how):
        """fill the smooth closed outline through points."""
        self.fill(self.curves(points, pair), paint, **how)

    def stroke(self, points, paint, line, pair=False, **how):
        """fill along the smooth line through points."""
        self.fill(self.curves(points, pair, closed=False), paint, line=line, **how)

    def fill(self, outlines, paint, opacity=1.0, soft=0.0, inside=None, line=0.0):
        """Paint the areas in outlines (a list of (n, 2) canvas pixels) or, with a line width, along them.

        paint: an RGB colour, or what textured gives. soft (blur of the edge) and line: widths in units of the head.
        inside: a mask (canvas size) to keep to.
        """
        soft, line, flat = soft * self.unit, line * self.unit, not isinstance(paint[0], np.ndarray)
        if flat:
            paint = [min(max(float(value), 0), 255) for value in paint]
        if flat and opacity == 1 and not soft and inside is None:  # nothing to blend
            points = [(outline * 16 + 0.5).astype(np.int32) for outline in outlines]
            if line:
                cv2.polylines(self.canvas, points, False, paint, max(1, round(line)), cv2.LINE_AA, 4)
            else:
                cv2.fillPoly(self.canvas, points, paint, cv2.LINE_AA, 4)
            return
        pad = int(2.5 * soft + line) + 2
        x, y, w, h = cv2.boundingRect(np.concatenate(outlines))
        x0, y0 = max(x - pad, 0), max(y - pad, 0)
        x1, y1 = min(x + w + pad, WIDTH * SCALE), min(y + h + pad, HEIGHT * SCALE)
        if x0 >= x1 or y0 >= y1:
            return
        small = max(1, int(soft))  # what is blurred anyway is drawn small: much faster
        mask = np.zeros(((y1 - y0) // small + 1, (x1 - x0) // small + 1), np.uint8)
        points = [((outline - (x0, y0)) * (16 / small) + 0.5).astype(np.int32) for outline in outlines]
        if line:
            cv2.polylines(mask, points, False, 255, max(1, round(line / small)), cv2.LINE_AA, 4)
        else:
            cv2.fillPoly(mask, points, 255, cv2.LINE_AA, 4)
        if soft:
            width = int((6 * (soft / small) ** 2 + 1) ** 0.5) | 1
            mask = cv2.blur(cv2.blur(mask, (width, width)), (width, width))  # twice a box: as good as a Gaussian here
        if small > 1:
            mask = cv2.resize(mask, None, fx=small, fy=small)
        mask = mask[: y1 - y0, : x1 - x0]
        if inside is not None:
            mask = cv2.min(mask, inside[y0:y1, x0:x1])
        alpha = cv2.merge([cv2.convertScaleAbs(mask, alpha=opacity)] * 3)
        below = self.canvas[y0:y1, x0:x1]
        if flat:
            above = np.empty(below.shape, np.uint8)
            cv2.rectangle(above, (0, 0), (x1, y1), paint, -1)
        else:
            above = cv2.applyColorMap(paint[0][y0:y1, x0:x1], paint[1])
        below[:] = cv2.add(cv2.multiply(below, 255 - alpha, scale=1 / 255), cv2.multiply(above, alpha, scale=1 / 255))

    def mask(self, outlines):
        """(canvas size) uint8, 255 in the outlines."""
        mask = np.zeros(self.canvas.shape[:2], np.uint8)
        cv2.fillPoly(mask, [(outline * 16).astype(np.int32) for outline in outlines], 255, cv2.LINE_AA, 4)
        return mask

    def shading(self, spots=()):
        """How brightly the head is lit, (canvas size) uint8 around 150, with soft spots (x, y, z, rx, ry, strength).

        A head-like ellipsoid lit from p["lighting"] degrees (to the right of the picture) and a little above.
        """
        step = 4
        x = np.arange(step / 2, WIDTH * SCALE, step, dtype=np.float32)
        y = np.arange(step / 2, HEIGHT * SCALE, step, dtype=np.float32)[:, None]
        ((cx, cy),) = self.place([(0, 2, 5)])
        nx, ny = (x - cx) / (62 * self.unit), (y - cy) / (100 * self.unit)
        nz = np.sqrt(np.maximum(0.1, 1 - nx**2 - ny**2))
        azimuth = np.radians(self.p["lighting"])
        light = 84 + 105 * (0.85 * np.sin(azimuth) * nx - 0.35 * ny + (0.45 + 0.35 * np.cos(azimuth)) * nz)
        if spots:
            spots = np.float32(spots)
            centres, sizes = self.place(spots[:, :3]), spots[:, 3:5] * self.unit
            across = np.exp(-(((x - centres[:, :1]) / sizes[:, :1]) ** 2))
            down = np.exp(-(((y - centres[:, 1]) / sizes[:, 1]) ** 2)) * spots[:, 5]
            light = light + down @ across
        small = np.clip(light, 0, 255).astype(np.uint8)
        return cv2.resize(small, (WIDTH * SCALE, HEIGHT * SCALE))

    def textured(self, colour, kind, light, share, part):
        """A paint for fill: colour, lit by light, with share of a kind of textures(); an index canvas and a palette."""
        i, j = (self.random[part, :2] * (700 - HEIGHT * SCALE)).astype(int)
        texture = textures()[kind][i : i + HEIGHT * SCALE, j : j + WIDTH * SCALE]
        return cv2.addWeighted(light, 1.0, texture, share, -128 * share), ramp(colour)


# ---------------------------------------------------------------- the parts of a portrait, from back to front

BLACK, SHADOW = (18, 12, 14), (20, 10, 8)


def paint_background(f):
    """A wall, light spots, stripes or blocks, out of focus."""
    r = f.random[0]
    grey = 60 + 150 * r[0]
    hue = grey + 110 * (r[1:4] - 0.5)
    small = np.clip(hue + 90 * (f.random[1:5, :3] - 0.5), 0, 255).astype(np.uint8).reshape(2, 2, 3)
    small = cv2.resize(small, (45, 55))
    kind = int(4 * r[4])
    for x, y, w, h, *colour in f.random[20 : 20 + (0, 14, 7, 6)[kind], :7]:
        colour = [float(value) for value in np.clip(hue + 150 * (np.array(colour) - 0.5), 0, 255)]
        x, y, w, h = int(45 * x), int(55 * y), int(4 + 12 * w), int(6 + 24 * h)
        if kind == 1:
            cv2.circle(small, (x, y), 1 + w // 3, colour, -1, cv2.LINE_AA)
        elif kind == 2:
            cv2.line(small, (x, 0), (x + h - 18, 55), colour, 1 + w // 4, cv2.LINE_AA)
        else:
            cv2.rectangle(small, (x, y), (x + w, y + h), colour, -1)
    cv2.resize(cv2.GaussianBlur(small, (0, 0), 0.6 + 1.4 * r[5]), f.canvas.shape[1::-1], f.canvas)


def waved(f, outlines):
    """Outlines (canvas pixels) in waves for wavy hair, jagged for straight, else as they are."""
    kind, found = f.p["strands"], []
    for outline in outlines if kind != "smooth" else ():
        step = np.roll(outline, -1, 0) - np.roll(outline, 1, 0)
        length = np.hypot(*step.T) + 1e-3
        along = np.cumsum(length / 2) / f.unit
        swing = 3 * np.sin(along / 3) if kind == "Wavy_Hair" else 0.4 * np.sin(along * 1.7)
        found.append(np.float32(outline + step[:, ::-1] * (1, -1) * (swing * f.unit / length)[:, None]))
    return found or outlines


def paint_hair_behind(f, hair):
    """Hair that is seen behind the head and the neck."""
    if f.p["Bald"] or f.p["length"] == "short":
        return
    low, out = (64, 0) if f.p["length"] == "medium" else (125, 6)
    upper = [(0, -80, -20), (34, -70, -25), (54, -34, -25), (58, 0, -20)]
    right = [*upper, (60 + out / 2, low * 0.5, -15), (58 + out, low, -10), (36 + out, low + 4, -15), (0, low, -20)]
    f.fill(waved(f, f.curves(both(right))), hair)
    f.area(both([(x * 0.86, y + 10, z) for x, y, z in right]), SHADOW, opacity=0.25, soft=6)


def paint_body(f, skin, light):
    """Shoulders, clothes, neck, and what is worn around it."""
    a, r = f.a, f.random[6]
    colour, tie, neckline = 25 + 200 * r[:3], 20 + 200 * r[3:6], int(3 * r[6])
    width = 25 + 8 * a["Male"] + 4 * a["Chubby"]
    shoulders = [(0, 84, 0), (30, 86, 0), (62, 97, 0), (92, 112, 0), (110, 150, 0), (0, 150, 0)]
    f.area(both(shoulders), f.textured(mixed(colour, [colour.mean()] * 3, 0.3), "grain", light, 0.25, 7))
    chest = [(width + 4, 92, 6), (width + 12, 100, 8), (0, 116 if neckline == 1 else 104, 12)]
    f.area(both([(0, 30, 5), (width - 2, 35, 5), (width, 70, 5), *chest]), skin)
    f.area(both([(0, 60, 18), (30, 62, 12), (width - 1, 80, 10), (0, 92, 18)]), SHADOW, opacity=0.42, soft=5)
    if a["Wearing_Necktie"] or neckline == 2:
        collar = [(width + 5, 84, 4), (width + 9, 99, 6), (14, 114, 14), (3, 104, 16)]
        f.area(collar, (236, 236, 240) if a["Wearing_Necktie"] else mixed(colour, (255, 255, 255), 0.25), pair=True)
    if a["Wearing_Necktie"]:
        f.area(both([(9, 95, 18), (6, 107, 18), (15, 150, 18)]), mixed(tie, (150, 20, 30), 0.5))
    if a["Wearing_Necklace"]:
        chain = [(-width - 2, 80, 8), (-width * 0.6, 91, 14), (0, 97, 17), (width * 0.6, 91, 14), (width + 2, 80, 8)]
        f.stroke(chain, (60, 40, 20), 3.4, opacity=0.6)
        f.stroke(chain, (240, 205, 90) if r[7] < 0.5 else (236, 236, 240), 2.4)


def relief(f):
    """The relief of the face, as soft spots (x, y, z, rx, ry, strength) for shading."""
    a, eye, nose, mouth = f.a, f.eye, f.nose, f.mouth
    wide = 13 if a["Big_Nose"] else 5.5 if a["Pointy_Nose"] else 8
    spots = [
        (0, -42, 40, 26, 16, 12),
        (0, 6, 52, 3.5, 15, 20),
        (0, nose - 1, 60, wide * 0.5, 5, 22),
        (0, nose + 8, 50, wide * 1.1, 4, -32),
        (f.away * (wide + 1), nose - 8, 48, 5, 12, -30),
        (0, mouth + 12 + f.gap, 42, 12, 4, -26),
        (0, mouth + 25, 42, 10, 8, 14),
    ]
    for sign in (-1, 1):
        spots += [
            (sign * eye, -4, 39, 13, 8, -22),
            (sign * 9, -5, 41, 5, 9, -16),
            (sign * 46, 20, 12, 8, 40, -18),
            (sign * 26, 22, 37, 12, 9, 28 if a["Smiling"] else 6),
        ]
        if a["High_Cheekbones"]:
            spots += [(sign * 32, 14, 34, 11, 5, 42), (sign * 31, 36, 34, 7, 12, -58)]
    return spots


def paint_head(f, skin):
    """Ears, face, second chin and what age, shape and make-up leave on the skin; returns the mask of the face."""
    a, dark, side, chin, eye = f.a, f.dark, f.side, f.chin, f.eye
    size = 1 + 0.08 * f.s["ears"]
    front, back = [(side, 24 * size, -2), (side - 5, 20, 0)], [(side + 8, -4, -9), (side + 6, 12 * size, -7)]
    f.area([(side - 3, -9, -4), (side + 5, -13 * size, -9), *back, *front], skin, pair=True)
    f.stroke([(side + 3, -8, -6), (side + 5.5, -2, -6), (side + 2, 12, -4)], dark, 1.5, pair=True, opacity=0.6)
    if a["Double_Chin"]:
        bulge = [(0, 50, 20), (f.jaw + 1, 50, 14), (30, chin + 6, 16), (12, chin + 14, 24)]
        f.area(both(bulge), dark, soft=2, opacity=0.8)
        f.area(both([(x * 0.97, y * 0.985, z) for x, y, z in bulge]), skin)
        f.stroke(both([(28, chin - 10, 22), (14, chin, 26)]), dark, 4, soft=1.8)
    face = f.curves(f.outline)
    f.fill(face, skin)
    inside = f.mask(face)
    f.fill([np.concatenate([face[0], face[0][:1]])], mixed(dark, f.p["skin"], 0.5), line=0.6)
    if not a["Young"]:
        for y, half in ((-31, 22), (-38, 25), (-45, 21)):
            f.stroke(both([(half, y + 2), (half / 2, y - 0.5)]), dark, 2.1, opacity=0.75, soft=0.4)
        f.stroke([(3.5, -19), (3, -8)], dark, 1.8, pair=True, opacity=0.7, soft=0.4)
        for end in (-7, -1, 5):
            f.stroke([(eye + 12, 1 + end * 0.3), (eye + 20, end)], dark, 1.6, pair=True, opacity=0.75, soft=0.3)
    if a["Smiling"] or not a["Young"]:  # folds from the nose past the corners of the mouth
        half = f.half + 4 + (not a["Smiling"])
        end, line, opacity = (3, 1.8, 0.4) if a["Young"] else (12, 2.6, 0.85)
        fold = [(11, f.nose - 1), (half * 0.85, f.nose + 6), (half, f.corner - 2), (half - 1, f.corner + end)]
        f.stroke(fold, dark, line, pair=True, soft=0.7, opacity=opacity)
    if a["Bags_Under_Eyes"]:
        tint = mixed(dark, (70, 40, 90), 0.35)
        bag = [(eye - 9, 5), (eye, 7.5), (eye + 9, 5), (eye + 7, 11), (eye, 14), (eye - 8, 10)]
        f.area(bag, tint, pair=True, opacity=0.5, soft=1)
        f.stroke([(eye - 9, 9), (eye, 13.5), (eye + 9, 9)], tint, 1.6, pair=True, opacity=0.8, soft=0.4)
    if a["Rosy_Cheeks"]:
        rouge = mixed(f.p["skin"], (225, 40, 60), 0.7)
        f.area(oval(28, 24, 10, 8), rouge, pair=True, opacity=0.7, soft=3.5, inside=inside)
    return inside


def paint_eyes(f):
    p, a, s, x = f.p, f.a, f.s, f.eye
    half, tilt = 9.8 + 0.5 * s["eye_size"], -0.9 - 0.5 * s["eye_tilt"]
    high = (2.3 if a["Narrow_Eyes"] else 5.8 - 0.9 * a["Male"] + 0.3 * s["eye_size"]) * (0.9 if a["Smiling"] else 1)
    lid = [(x - half, 0.8), (x - half * 0.45, -high * 0.85), (x + half * 0.2, -high)]
    lid += [(x + half * 0.75, -high * 0.55 + tilt * 0.5), (x + half, tilt)]
    under = [(x + half * 0.6, high * 0.75 + tilt * 0.3), (x, high * 0.9), (x - half * 0.6, high * 0.7)]
    if a["Heavy_Makeup"]:
        shadow = ((96, 62, 150), (40, 90, 150), (110, 50, 60), (60, 110, 90))[int(4 * f.random[8, 0])]
        raised = [(u + (2 if i > 2 else 0), v - (1, 4.5, 6.5, 6, 2)[i]) for i, (u, v) in enumerate(lid)]
        f.area(raised + under, shadow, pair=True, opacity=0.85, soft=1)
    else:
        f.stroke([(u, v - 3.2) for u, v in lid[1:]], f.dark, 1.2, pair=True, opacity=0.6, soft=0.5)
    eyes = f.curves(lid + under, pair=True)
    f.fill(eyes, (238, 234, 230))
    inside = f.mask(eyes)
    for size, colour in ((4.9, mixed(p["eyes"], BLACK, 0.6)), (4, p["eyes"]), (2.1, BLACK), (1, (255, 255, 255))):
        shift = p["gaze"] - f.away * 1.4 * (size == 1)  # the glint lies towards the light
        rings = [oval(sign * x + shift, -1.6 if size == 1 else -0.3, size, size) for sign in (-1, 1)]
        f.fill(f.curves(rings[0]) + f.curves(rings[1]), colour, inside=inside)
    f.stroke([(u, v + 1.2) for u, v in lid], SHADOW, 2, pair=True, opacity=0.35, soft=0.7, inside=inside)
    lash = (1.3 if a["Male"] else 3 if a["Heavy_Makeup"] else 2.4) - 0.5 * a["Narrow_Eyes"]
    f.stroke(lid, mixed(f.dark, BLACK, 0.5) if a["Male"] else BLACK, lash, pair=True)
    if not a["Male"]:
        for along in (0.55, 0.85) + (0.7, 1) * a["Heavy_Makeup"]:
            u, v = x + half * along, -high * 1.7 * (1.05 - along) + tilt * 0.6
            f.stroke([(u, v), (u + 2.6, v - 3)], BLACK, 1.2, pair=True)
    f.stroke([lid[-1], *under], f.dark, 0.9 + 0.6 * a["Heavy_Makeup"], pair=True, opacity=0.6 + 0.3 * a["Heavy_Makeup"])


def paint_brows(f, colour):
    a, x = f.a, f.eye
    thick = (3.3 if a["Bushy_Eyebrows"] else 1.4) + 0.8 * a["Male"]
    arch = 9 if a["Arched_Eyebrows"] else 0.3
    y = -14 + 2.6 * a["Male"] - 0.9 * f.s["brow_height"] - 1.5 * a["Bushy_Eyebrows"] + 0.2 * arch
    inner = [(x - 11, y + 1 + arch * 0.2, 0.8), (x - 3, y - arch * 0.5, 1), (x + 4.5, y - arch, 1)]
    middle = [*inner, (x + 9, y - arch * 0.5, 0.8), (x + 14, y + 1 + arch * 0.3, 0.1)]  # x, y, share of the thickness
    brow = [(u, v - thick * w) for u, v, w in middle] + [(u, v + thick * w) for u, v, w in middle[::-1]]
    f.area(brow, colour, pair=True, opacity=0.95 if a["Bushy_Eyebrows"] else 0.85, soft=0.35)


def paint_nose(f):
    a, y, dark, away = f.a, f.nose, mixed(f.dark, (30, 0, 0), 0.15), f.away
    wide = (15.5 if a["Big_Nose"] else 5.8 if a["Pointy_Nose"] else 9) + 0.6 * f.s["nose_width"]
    ridge = [(away * 6, -8, 42), (away * 3.5, 2, 48), (away * 4, y - 10, 53), (away * wide * 0.6, y - 3, 53)]
    f.stroke(ridge, dark, 2.4, opacity=0.35, soft=1.3)
    wing = [(wide * 0.85, y - 5.5, 47), (wide + 0.8, y, 46), (wide * 0.8, y + 4.2, 48)]
    f.stroke(wing, dark, 2.2 if a["Big_Nose"] else 1.5, pair=True, opacity=0.85, soft=0.4)
    nostril = oval(wide * 0.48, y + 4.2, wide * 0.24 + 0.5, 1.6 if a["Big_Nose"] else 1.2, 51)
    f.area(nostril, (45, 18, 16), pair=True, opacity=0.85, soft=0.3)
    u, v, z, line = (wide * 0.8, y + 3, 51, 1.8) if a["Pointy_Nose"] else (wide * 0.45, y + 5.4, 54, 1.3)
    f.stroke([(-u, v, z), (0, y + 6.7, 59), (u, v, z)], dark, line, opacity=0.8, soft=0.3)
    if a["Pointy_Nose"]:
        gleam = [(-1.6, y - 20, 54), (1.6, y - 20, 54), (2, y - 2, 60), (0, y + 4, 61), (-2, y - 2, 60)]
        f.area(gleam, mixed(f.p["skin"], (255, 246, 240), 0.55), opacity=0.6, soft=0.6)


def paint_mouth(f):
    a, half, corner, gap, sag = f.a, f.half, f.corner, f.gap, 4.2 * f.a["Smiling"]
    upper, lower = (7.5, 10.5) if a["Big_Lips"] else (2.4, 3.2) if a["Male"] else (3, 3.8)
    upper, lower = upper + 0.25 * f.s["lips"], lower + 0.3 * f.s["lips"]
    lip = mixed(f.p["skin"], (104, 50, 44), 0.6) if a["Male"] else mixed(f.p["skin"], (206, 84, 96), 0.6)
    if a["Wearing_Lipstick"]:
        lip = ((196, 16, 44), (214, 40, 100), (150, 12, 40))[int(3 * f.random[9, 0])]
    y = f.mouth - 1.5 * a["Smiling"]  # a smile hangs between its corners
    seam = [(-half * 0.97, corner), (-half * 0.5, y + sag * 0.6), (0, y + sag * 0.75)]
    seam += [(half * 0.5, y + sag * 0.6), (half * 0.97, corner)]
    above = [(0, y - upper * 0.72), (half * 0.16, y - upper), (half * 0.5, y - upper * 0.8), (half, corner)]
    below = [(half * 0.62, y + sag * 0.8 + gap * 0.85 + lower * 0.6), (0, y + sag + gap + lower)]
    f.area(both(above + below), lip)
    low = y + sag + gap
    gleam = [(0, low + lower * 0.2), (half * 0.55, y + sag + gap * 0.9 + lower * 0.25), (0, low + lower * 0.9)]
    f.area(both(gleam), mixed(lip, (255, 235, 235), 0.3), opacity=0.7, soft=0.6)
    if gap:
        side = y + sag * 0.7 + gap * 0.75
        opening = f.curves([*seam, (half * 0.55, side), (0, low), (-half * 0.55, side)])
        f.fill(opening, (52, 12, 16))
        teeth = gap * (0.75 if a["Smiling"] else 0.36)
        edge, middle = y + sag * 0.5 + teeth, y + sag * 0.8 + teeth
        row = [*[(u, v - 1) for u, v in seam], (half * 0.5, edge), (0, middle), (-half * 0.5, edge)]
        f.area(row, (244, 240, 232), inside=f.mask(opening))
    else:
        f.stroke(seam, (64, 14, 18), 2.1)
    f.area(oval(half, corner, 1.9, 1.5), (70, 25, 25), pair=True, opacity=0.6, soft=0.6)


def paint_beard(f, colour, inside, light):
    a, y, half, corner, side, jaw, chin = f.a, f.mouth, f.half, f.corner, f.side, f.jaw, f.chin
    lips = y + 4 + 6 * a["Big_Lips"] + f.gap + 3 * a["Smiling"]
    if a["5_o_Clock_Shadow"]:
        tone = mixed(mixed(f.p["skin"], colour, 0.5), (45, 50, 62), 0.35)
        cheek = [
            (0, f.nose + 8),
            (half + 4, f.nose + 10),
            (half + 12, y - 8),
            (side - 3, y - 22, 14),
            (side + 2, 24, 10),
        ]
        stubble = both([*cheek, (jaw + 3, 56, 16), (16, chin + 2, 34), (0, chin + 3, 36)])
        f.area(stubble, f.textured(tone, "grain", light, 1.0, 10), opacity=0.68, soft=2.6, inside=inside)
    if a["No_Beard"] or a["5_o_Clock_Shadow"]:
        return
    hair = f.textured(mixed(colour, BLACK, 0.55 if a["Young"] else 0.1), "Straight_Hair", light, 0.6, 10)
    if a["Sideburns"]:
        inner = [(side - 7, -26, 16), (side - 12, 22, 20), (jaw - 12, 48, 26), (20, chin - 8, 32)]
        outer = [(20, chin + 2, 30), (jaw + 5, 58, 14), (side + 3, 28, 10)]
        f.area([(side + 3, -24, 8), *inner, *outer], hair, pair=True, opacity=0.94, soft=1, inside=inside)
    if a["Goatee"]:
        wide = 25 if a["Sideburns"] else 14
        upper = [(0, lips + 1), (wide * 0.6, lips + 2), (wide, lips + 8)]
        goatee = both([*upper, (wide, chin - 3, 33), (wide * 0.6, chin + 4, 35), (0, chin + 6, 36)])
        f.area(goatee, hair, opacity=0.94, soft=1)
    if a["Mustache"]:
        thick = 4.5 * a["Big_Lips"]
        upper = [(0, f.nose + 8.5), (8, f.nose + 8), (half * 0.8, corner - 6), (half + 5, corner + 1)]
        lower = [(half + 3, corner + 4), (half * 0.7, corner - 1.5 - thick), (0, y - 2.5 - thick)]
        f.area(both(upper + lower), hair, opacity=0.94, soft=0.8)
    if a["Mustache"] and a["Goatee"]:
        bridge = [(half + 5, corner), (half + 1, corner + 2), (half - 3, lips + 6), (half + 3, lips + 6)]
        f.area(bridge, hair, pair=True, opacity=0.94, soft=1)


def paint_hair(f, hair):
    """Hair in front of the head: crown and hairline, a fringe, locks that fall over the ears."""
    p, a = f.p, f.a
    if p["Bald"]:
        f.area(oval(-f.away * 12, -56, 10, 4, 20), (255, 250, 245), opacity=0.45, soft=3)
        return
    short, parting = p["length"] == "short", p["parting"]
    line = -46 + 1.5 * f.s["forehead"] - 15 * a["Receding_Hairline"]
    more = (0 if short else 4) + 2 * (p["strands"] == "Wavy_Hair")
    low = -2 if short else 14
    top = 0, -80 - more * 0.6, -10
    outer = [(26, -76 - more * 0.6, -10), (45 + more, -54, -10), (50 + more, -24, -8), (47 + more, low, -4)]
    if a["Receding_Hairline"]:
        inner = [(44, low, 12), (41, -20, 20), (37, -46, 18), (30, -62, 14), (14, line + 4, 20)]
    else:
        inner = [(44, low, 12), (41, -20, 20), (36, -38, 24), (20, line + 2, 32)]
    right = outer + inner
    crown = [top, *right, (parting * 0.7, line - 2, 34), *[(-x, y, z) for x, y, z in right[::-1]]]
    f.area([(x * 0.99, y + 3, z) for x, y, z in crown], SHADOW, opacity=0.3, soft=2.5)
    f.fill(waved(f, f.curves(crown)), hair)
    if not a["Receding_Hairline"] and not a["Bangs"]:
        part = [(parting * 0.7, line - 2, 34), (parting, -64, 18), (parting, -76, 5)]
        f.stroke(part, SHADOW, 1.6, opacity=0.35, soft=0.6)
    if not short:
        end = 62 if p["length"] == "medium" else 122
        lock = [(20, -68, 10), (40, -52, 12), (41, -20, 18), (43, 20, 14), (42, end * 0.7, 8), (44, end, 4)]
        lock += [(58, end, -4), (61, 40, -6), (57, 0, -6), (52, -40, -8)]
        f.area([(x * 0.97, y, z) for x, y, z in lock], SHADOW, pair=True, opacity=0.3, soft=2.5)
        f.fill(waved(f, f.curves(lock, pair=True)), hair)
    if a["Bangs"]:
        ends = [(x, -18.5 + (3.5 if i % 2 else -2.5) + abs(x) * 0.06) for i, x in enumerate(range(-42, 43, 7))]
        top = [(41, -50, 22), (20, -68, 14), (-20, -68, 14)]
        fringe = f.place([(-41, -50, 22), *[(x, y, 6 + z) for x, y, z in solid(ends)], *top])
        f.fill([fringe + np.float32((0, 3 * SCALE))], SHADOW, opacity=0.35, soft=1.5)
        f.fill([fringe], hair)


def paint_earrings(f):
    metal = ((244, 210, 90), (240, 240, 246), (60, 190, 200))[int(3 * f.random[11, 0])]
    drops = [(25, 2.5, 2.5), (33, 3, 5.2)] if f.random[11, 1] < 0.6 else [(26, 3.2, 3.2)]
    for y, rx, ry in drops:
        f.area(oval(f.side + 4, y, rx + 0.7, ry + 0.7, 0), SHADOW, pair=True, opacity=0.6, soft=0.5)
        f.area(oval(f.side + 4, y, rx, ry, 0), metal, pair=True)


def paint_glasses(f):
    r, eye = f.random[12], f.eye
    frame = (BLACK, BLACK, (72, 40, 22), (110, 20, 30), (60, 62, 70))[int(5 * r[0])]
    thick, (w, h, corner) = 1.9 + 0.8 * r[1], (14.5, 13, 0.71) if r[2] < 0.4 else (15.5, 10.5, 0.88)
    lenses = f.curves(oval(eye + 0.5, 1.5, w, h, 46, corner=corner), pair=True)
    rims = [np.concatenate([lens, lens[:1]]) for lens in lenses]
    f.fill(lenses, (225, 235, 245), opacity=0.13)
    f.stroke([(eye + 5, -6, 47), (eye - 2, 5, 47)], (255, 255, 255), 2.2, pair=True, opacity=0.3, soft=0.8)
    f.fill([rim + np.float32((0, 1.5 * SCALE)) for rim in rims], SHADOW, line=thick, opacity=0.3, soft=0.8)
    f.fill(rims, frame, line=thick)
    f.stroke([(eye + w, -3, 45), (f.side + 1, -5, 4)], frame, thick, pair=True)
    f.stroke([(-eye + w - 0.5, -1, 47), (0, -3.5, 53), (eye - w + 0.5, -1, 47)], frame, thick)


def paint_hat(f, light):
    """A beanie, a cap with a peak or a hat with a brim; everything above the brow is hidden."""
    r = f.random[13]
    kind, colour = int(3 * r[0]), 25 + 195 * r[1:4]
    colour = mixed(colour, [colour.mean()] * 3, 0.3)
    band = mixed(colour, SHADOW if np.mean(colour) > 90 else (255, 255, 255), 0.45)
    cloth = f.textured(colour, "grain", light, 0.5, 14)
    rim = [(53, -22, 0), (34, -33, 32), (0, -37, 44)]
    dome = [(0, -95, -8), (40, -80, -6), (54, -48, -4), *rim]
    f.area(both([(x, y + 5, z) for x, y, z in dome]), SHADOW, opacity=0.4, soft=3)
    f.area(both(dome), cloth)
    if kind == 0:
        f.area(both([(0, -54, 44), (34, -50, 32), (55, -38, 0), *rim]), band)
        for x in range(3, 51, 6):
            z = 46 * (1 - (x / 56) ** 2) ** 0.5
            f.stroke([(x, -52 + x * 0.24, z), (x, -37 + x * 0.24, z)], SHADOW, 1.2, pair=True, opacity=0.3)
    elif kind == 1:
        peak = [(0, -52, 46), (26, -48, 42), (40, -36, 30), (36, -27, 62), (0, -24, 82)]
        f.area(both(peak), f.textured(band, "grain", light, 0.3, 14))
        f.stroke(both([(36, -27, 62), (0, -24, 82)]), SHADOW, 1.6, opacity=0.6)
    else:
        f.area(both([(0, -52, 44), (32, -48, 34), (53, -38, 0), *rim]), band)
        f.area(both([(0, -42, 46), (60, -40, 12), (84, -34, -5), (56, -25, 40), (0, -24, 66)]), cloth)
        f.stroke(both([(84, -34, -5), (56, -25, 40), (0, -24, 66)]), SHADOW, 1.5, opacity=0.5)


def draw(p):
    """Paint one face.

    p: a dict as parameters gives it (change entries for the same face with another attribute, pose, light, ...), or an
    int, the seed of one. Returns (218, 178, 3) uint8 RGB, the 40 columns as a dict of 0 / 1, and the (5, 2) float32
    landmarks in picture pixels: left eye, right eye, nose, left and right corner of the mouth, as seen in the picture.
    """
    p = p if isinstance(p, dict) else parameters(p)
    a = visible(p)
    f = Portrait(p, a)
    light, colour = f.shading(), HAIR[p["hair"]]
    gloss = [(-f.away * 8, -66, 10, 26, 6, 75), (-f.away * 8, -36, 30, 22, 5, 45)] if p["strands"] == "smooth" else ()
    hair = f.textured(colour, p["strands"], f.shading(gloss), 1.0, 15)
    paint_background(f)
    paint_hair_behind(f, hair)
    paint_body(f, f.textured(p["skin"], "grain", light, 0.12, 16), light)
    inside = paint_head(f, f.textured(p["skin"], "grain", f.shading(relief(f)), 0.12, 16))
    beard = colour if a["Young"] else mixed(colour, HAIR["Gray_Hair"], 0.6)  # brows and beards turn grey first
    paint_brows(f, mixed(beard, BLACK, (0.65 if a["Bushy_Eyebrows"] else 0.55) - 0.2 * (not a["Young"])))
    paint_eyes(f)
    paint_nose(f)
    paint_mouth(f)
    paint_beard(f, beard, inside, light)
    paint_hair(f, hair)
    if a["Wearing_Earrings"]:
        paint_earrings(f)
    if a["Eyeglasses"]:
        paint_glasses(f)
    if a["Wearing_Hat"]:
        paint_hat(f, light)
    r = f.random[17]
    picture = cv2.resize(f.canvas, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    picture = cv2.GaussianBlur(picture, (0, 0), 2.3 if a["Blurry"] else 0.35 + 0.25 * r[0])
    i, j = (480 * r[1:3]).astype(int)
    grain = textures()["grain"][i : i + HEIGHT, j : j + WIDTH].astype(np.float32) - 128
    picture = picture * np.float32(p["brightness"]) + np.float32(0.03 + 0.11 * r[3]) * grain[..., None]
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8), a, f.landmarks


# ---------------------------------------------------------------- a CelebA data set of them

STAMP = "synthetic.json"
TABLES = ("list_landmarks_align_celeba.txt", "identity_CelebA.txt", "list_eval_partition.txt", "poses.tsv")
FILES = (*TABLES, "list_attr_celeba.txt")  # the attributes last: without them a folder is not taken for whole
POSE = ("yaw", "pitch", "roll", "lighting", "scale")


def start_worker():
    """What a drawing process does first: keep to one core, and end when the process that started it has gone."""
    cv2.setNumThreads(1)
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()


def draw_file(job):
    """Draw one picture, job = (path, seed, identity, picture); returns what the annotations say of it."""
    path, *which = job
    p = parameters(*which)
    image, attributes, landmarks = draw(p)
    coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    Path(path).write_bytes(coded.tobytes())
    return list(attributes.values()), landmarks.round().astype(int).ravel().tolist(), [p[name] for name in POSE]


def earlier_run(out_dir, stamp):
    """True when out_dir holds all of what stamp describes; InputError when it holds anything else than a part of it."""
    if out_dir.exists() and not out_dir.is_dir():
        raise InputError(f"{out_dir} is a file; a folder is needed")
    if not out_dir.exists() or not any(out_dir.iterdir()):
        return False
    try:
        earlier = json.loads((out_dir / STAMP).read_text(encoding="utf-8"))
        same = all(earlier[key] == stamp[key] for key in ("count", "seed", "identities"))
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{out_dir} is not empty and holds no drawn data set; give a new or an empty folder") from None
    if not same:
        raise InputError(
            f"{out_dir} holds {earlier['count']} faces of {earlier['identities']} people, seed "
            f"{earlier['seed']}: give the same numbers or another folder"
        )
    if earlier != stamp or not all((out_dir / name).exists() for name in FILES):
        return False
    return len(list((out_dir / "img_align_celeba").glob("*.jpg"))) == stamp["count"]


def write(out_dir, count=4000, seed=0, identities=None, workers=0):
    """Write count drawn faces as a CelebA data set; returns how many were drawn (0: they were all there already).

    out_dir gets img_align_celeba/000001.jpg ... (178 x 218), list_attr_celeba.txt (1 / -1), landmarks, identities
    (from 1), a partition that keeps each person on one side (80 / 10 / 10), and poses.tsv: yaw and lighting in degrees
    to the right of the picture, pitch upwards, roll clockwise, scale. identities: how many people, by default one for
    every ten pictures. workers: processes to draw with, 0 for this one; the bytes are the same. A run that was killed
    is completed by the next one with the same arguments. Raises InputError when out_dir has other things in it.
    """
    out_dir = Path(out_dir)
    if count < 1 or seed < 0 or workers < 0:
        raise InputError(f"count {count}, seed {seed}, workers {workers}: expected at least 1, 0 and 0")
    identities = max(count // 10, min(count, 10)) if identities is None else identities
    if not 1 <= identities <= count:
        raise InputError(f"{count} pictures cannot show {identities} people: expected 1 to {count} identities")
    source = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()  # another version of this file draws anew
    stamp = {"count": count, "seed": seed, "identities": identities, "source": source}
    if earlier_run(out_dir, stamp):
        return 0
    image_dir = out_dir / "img_align_celeba"
    image_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / STAMP).write_text(json.dumps(stamp), encoding="utf-8")
    for name in FILES:
        (out_dir / name).unlink(missing_ok=True)

    rng = np.random.default_rng([seed, identities, 0, 1])
    people = rng.permutation(np.arange(count) % identities).tolist()
    names = [f"{i + 1:06d}.jpg" for i in range(count)]
    jobs, seen = [], [0] * identities
    for name, identity in zip(names, people, strict=True):
        jobs.append((str(image_dir / name), seed, identity, seen[identity]))
        seen[identity] += 1
    if workers:
        with multiprocessing.get_context("spawn").Pool(workers, start_worker) as pool:
            rows = pool.map(draw_file, jobs, chunksize=max(1, min(64, count // (4 * workers))))
    else:
        rows = [draw_file(job) for job in jobs]
    part, held, order = [0] * identities, max(round(identities / 10), int(identities > 2)), rng.permutation(identities)
    for i, identity in enumerate(order[: 2 * held]):
        part[identity] = 1 + (i >= held)

    attributes, landmarks, poses = zip(*rows, strict=True)
    signs = [[2 * value - 1 for value in row] for row in attributes]
    places = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
    points = [f"{place}_{axis}" for place in places for axis in "xy"]
    tables = {  # name: heading, rows, separator
        "list_attr_celeba.txt": ([str(count), " ".join(MEANING)], signs, " "),
        "list_landmarks_align_celeba.txt": ([str(count), " ".join(points)], landmarks, " "),
        "identity_CelebA.txt": ([], [[identity + 1] for identity in people], " "),
        "list_eval_partition.txt": ([], [[part[identity]] for identity in people], " "),
        "poses.tsv": (["\t".join(["file", *POSE])], poses, "\t"),
    }
    for file in FILES:
        heading, values, separator = tables[file]
        lines = [separator.join([name, *map(str, row)]) for name, row in zip(names, values, strict=True)]
        (out_dir / f"{file}.part").write_text("\n".join([*heading, *lines]) + "\n", encoding="utf-8")
        os.replace(out_dir / f"{file}.part", out_dir / file)
    return count


def main():
    """The command line."""
    tolerate_names()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out_dir",
        type=os.path.expanduser,
        required=True,
        help="a new or empty folder, or one that this command has begun",
    )
    parser.add_argument("--count", type=int, default=4000, help="how many pictures")
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same pictures")
    parser.add_argument("--identities", type=int, help="how many people (default: one for every ten pictures)")
    parser.add_argument("--workers", type=int, help="processes to draw with (default: one a core)")
    args = parser.parse_args()
    start = time.time()
    if args.workers is None:
        args.workers = min(os.cpu_count(), 16) if args.count > 500 else 0
    try:
        drawn = write(args.out_dir, args.count, args.seed, args.identities, args.workers)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")
    except (InputError, OSError) as error:  # a folder below a file, or a full disk
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{args.count} faces in {args.out_dir} ({drawn} drawn now, {time.time() - start:.1f} s)")


if __name__ == "__main__":
    main()
