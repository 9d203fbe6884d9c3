"""--run refine: a face, what is asked of it, every step on the way; the talk in a terminal (the page is web.py)."""

import itertools
import math
import os
import sys
from functools import partial
from pathlib import Path

import torch.nn.functional as F
from PIL import Image

from common.celeba import attribute_indices, to_uint8
from common.mtcnn import kind_of, paste
from common.photos import InputError, Writer, numbered_frames
from facegen_attr.asking import draw_requests, own_faces, test_faces, wanted
from facegen_attr.attributes import contradictions
from facegen_attr.loading import is_editor, load_model, noise, picture_size, read_model, run_name
from facegen_attr.model import REFINERS
from facegen_attr.plumbing import output_folder, place

HELP = """+Smiling -Eyeglasses   ask for attributes, or for their absence, as many as you like
Smiling=0.5            ask for a degree, from -2 (very much not) over -1 (not) and 1 (yes) to 2 (very much)
more 0.5               what was asked for last, by so much more
undo                   back to the step before
save face.png          write the picture to a file
show                   what the picture is asked to be
quit                   end"""
MOST = 2.0


class Session:
    """A face being refined. Degrees run from -2 to 2: 1 is there, -1 not there, beyond is more than ever seen.

    attributes: the names that the network knows; picture: (3, H, W) in [-1, 1], the first; c: (A,) its attributes, 1
    or 0; render: (picture of the step before, c) -> picture; folder: a new one, where every step is written as
    step_000.png and so on, with steps.tsv. A step that is undone stays there. spot: where in a photo the face is; the
    whole photo, changed there, is then written too, to photos/step_000.png and so on. notes: on what it begins with;
    asked: what the first picture was asked to be, name -> degree.
    """

    def __init__(self, attributes, picture, c, render, folder, spot=None, notes=(), asked=None):
        self.attributes, self.render, self.folder, self.written, self.notes = attributes, render, folder, 0, notes
        self.spot, self.photo = spot, spot and read_frame(spot)
        (folder / "photos" if spot else folder).mkdir(parents=True, exist_ok=True)
        self.steps = []  # (picture, degrees, what was asked for in this step, the name of its file)
        self.add(picture, c * 2 - 1, asked or {})

    @property
    def degrees(self):
        """Name -> degree of the present step."""
        return dict(zip(self.attributes, self.steps[-1][1].tolist(), strict=True))

    def add(self, picture, degrees, asked):
        name = f"step_{self.written:03d}.png"
        self.steps.append((picture, degrees, asked, name))
        Image.fromarray(self.pixels()).save(self.folder / name)
        if self.spot:
            still = kind_of(self.spot.file) == ".png"
            with Writer(self.folder / "photos" / name, like=self.spot.file if still else None) as writer:
                writer.add(self.whole())
                writer.keep()
        text = ",".join(f"{attribute}={degree:g}" for attribute, degree in asked.items())
        row = [name, text, *(f"{degree:g}" for degree in degrees.tolist())]
        with open(self.folder / "steps.tsv", "a" if self.written else "w", encoding="utf-8") as file:
            for line in [row] if self.written else [["file", "asked", *self.attributes], row]:
                print(*line, sep="\t", file=file)
        self.written += 1

    def pixels(self, step=None):
        """A step's picture, by default the present one's, (H, W, 3) uint8."""
        return to_uint8((step or self.steps[-1])[0][None])[0]

    def whole(self):
        """The photo with the present step's face, (H, W, 3) uint8; the face alone where it is of no photo."""
        if self.spot is None:
            return self.pixels()
        return paste(self.photo, self.pixels(), self.spot.matrix, before=self.pixels(self.steps[0]))

    def change(self, asked):
        """Take a step: asked is name -> degree. Returns a list of notes. InputError: not an attribute, not a degree."""
        attribute_indices(asked)
        degrees = self.steps[-1][1].clone()
        for name, degree in asked.items():
            if name not in self.attributes:
                raise InputError(f"the network was not trained on {name}, but on {', '.join(self.attributes)}")
            if not -MOST <= degree <= MOST:
                raise InputError(f"{name}={degree:g}: expected a degree from {-MOST:g} to {MOST:g}")
            degrees[self.attributes.index(name)] = degree
        self.add(self.render(self.steps[-1][0], (degrees + 1) / 2), degrees, asked)
        pairs = contradictions([name for name, degree in self.degrees.items() if degree > 0])
        return [f"note: {pair} contradict each other; asked for all the same" for pair in pairs]

    def more(self, amount):
        """Ask for what the last step asked for by so much more."""
        asked = self.steps[-1][2]
        if not asked:
            raise InputError("nothing was asked for yet: begin with, say, +" + self.attributes[0])
        beyond = {name: degree + (amount if degree >= 0 else -amount) for name, degree in asked.items()}
        return self.change({name: max(-MOST, min(MOST, degree)) for name, degree in beyond.items()})

    def undo(self):
        """Back to the step before."""
        if len(self.steps) == 1:
            raise InputError("nothing to undo: this is the first picture")
        self.steps.pop()

    def save(self, path):
        """Write the present picture, of a photo the whole, as PNG. InputError: it exists, or cannot be written."""
        if not path.lower().endswith(".png"):
            raise InputError(f"{path}: expected a name that ends in .png")
        try:
            with open(os.path.expanduser(path), "xb") as file:
                Image.fromarray(self.whole()).save(file, format="PNG")
        except FileExistsError:
            raise InputError(f"{path} exists: name another file") from None
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror})") from None


def read_frame(spot):
    """The picture that a face is in."""
    return next(itertools.islice((image for _, image in numbered_frames(spot.file)), spot.frame, None))


def parse_changes(words):
    """{"Smiling": 1.0, "Eyeglasses": -1.0} from ["+Smiling", "-Eyeglasses"]; "Smiling=0.5" gives a degree."""
    asked = {}
    for word in words:
        if word[0] in "+-":
            asked[word[1:]] = 1.0 if word[0] == "+" else -1.0
        elif "=" in word:
            name, _, degree = word.partition("=")
            asked[name] = number(degree)
        else:
            raise InputError(f"{word!r} is not understood: try +Smiling, -Smiling, Smiling=0.5, or help")
    return asked


def number(text):
    """A number from text, or InputError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise InputError(f"{text!r}: expected a number such as 0.5")
    return value


def talk(session, lines, prompt=""):
    """Obey lines (an iterable of texts) until "quit" or their end; what goes wrong is said, and the next line read."""
    whole = ", the whole photo to photos/ in there" * (session.spot is not None)
    for note in session.notes:
        print(note)
    print(f"each step is written to {session.folder}{whole}; help lists what can be said")
    print(prompt, end="", flush=True)
    for line in lines:
        words = line.split()
        try:
            match words:
                case ["quit" | "exit"]:
                    break
                case ["help" | "?"]:
                    print(HELP)
                case ["undo"]:
                    session.undo()
                    print(f"back at {describe(session)}")
                case ["more", *amount] if len(amount) < 2:
                    told(session, session.more(number(amount[0]) if amount else 0.5))
                case ["save", _, *_]:  # a name may have blanks
                    path = line.strip().removeprefix("save").strip().strip("\"'")
                    session.save(path)
                    print(f"saved {path}")
                case ["save"]:
                    raise InputError("save where? save face.png")
                case ["show"]:
                    print(describe(session))
                case [_, *_]:
                    told(session, session.change(parse_changes(words)))
        except InputError as error:
            print(f"error: {error}")
        print(prompt, end="", flush=True)


def told(session, notes):
    """Say what a step has led to."""
    for note in notes:
        print(note)
    print(f"step_{session.written - 1:03d}.png: {describe(session)}")


def describe(session):
    """The degrees as text."""
    return " ".join(f"{name}={degree:g}" for name, degree in session.degrees.items())


# ---------------------------------------------------------------------------------------------------------------------
# Where a session begins


def first_guess(args, model):
    """The model that --first_model names, None without; for an editor that comes with the program the dcgan2 beside it,
    where there is no picture to begin from. InputError: one that does not go with the editor.
    """
    if args.shipped and model.flags.model == "dcgan5" and not (args.images or args.dataset_dir):
        beside = Path(args.model_path).with_name("dcgan2.pt")
        args.first_model = args.first_model or beside.exists() and beside
    if not args.first_model:
        return None
    if model.flags.model != "dcgan5":
        raise InputError(f"{model.flags.model} makes the first guess itself: --first_model is for --model dcgan5")
    first = read_model(args.first_model, model.device, model.autocast)
    if first.flags.attributes != model.flags.attributes:
        raise InputError(f"--first_model was trained on other attributes: {', '.join(first.flags.attributes)}")
    if first.flags.model in REFINERS:
        raise InputError(f"--first_model is to begin from noise; {args.first_model} is a {first.flags.model}")
    return first


def open_session(args, model, first, seed, photo=None):
    """A session on a new face: a photo, the seed-th test face, or the noise of a seed, of which `first` or, without it,
    the model itself makes a face.
    """
    flags, names, paths = model.flags, model.flags.attributes, [photo] if photo else args.images
    columns, values = wanted(args.request, names)
    noisy, spot, notes = not paths and (first or flags.model != "dcgan5"), None, []
    if paths:
        x, c, places = own_faces(args, model, paths)
        start, c, spot = x[:1], c[:1], places[0]
        if len(x) > 1:
            notes = [f"of {len(x)} photos and frames the first is refined, {spot.name}; generate --images changes all"]
    elif noisy:
        maker = first or model
        c = draw_requests(maker.known, names, args.request, 1, seed)
        start = noise(maker.flags, 1, seed)
    else:
        x, c = test_faces(args, model)
        start, c = x[[seed % len(x)]], c[[seed % len(x)]]
    picture = maker.answer(start, c, c) if noisy else start
    if first and noisy:
        start = picture = F.interpolate(picture, picture_size(flags), mode="bilinear", antialias=True)

    def render(before, asked):
        """The editor changes the first picture, so that nothing wears off; dcgan4, 5 are fed what they made."""
        fed = before[None] if flags.model in REFINERS and not is_editor(flags) else start
        return model.answer(fed, c, asked[None])[0]

    folder = output_folder(args, place(args, "samples", run_name(args)))
    asked = {names[k]: value * 2 - 1 for k, value in zip(columns, values.tolist(), strict=True)}
    session = Session(names, picture[0], c[0], render, folder, spot, notes, asked if noisy else None)
    if asked and not noisy:  # a face that was there first, and is now to be as asked
        session.change(asked)
    return session


def refine(args):
    """Refine a face request by request: from noise, from a photo of one's own, or from a test face."""
    model = load_model(args)
    first = first_guess(args, model)
    if model.flags.model == "dcgan5" and not (args.images or first or args.dataset_dir):
        raise InputError("dcgan5 refines a picture: give --images, --first_model, or --dataset_dir for a test face")
    begin = partial(open_session, args, model, first)
    if args.web:
        if args.out_dir:
            raise InputError("--out_dir is for one face; the page begins many, each in a new folder of --sample_dir")
        try:
            from facegen_attr.web import serve
        except ModuleNotFoundError as error:
            raise InputError(f"--web needs {error.name}: pip install -r requirements-web.txt") from None
        serve(begin, model.flags.attributes, args.seed, model.flags.model == "dcgan5", args.port, args.sample_dir)
    else:
        talk(begin(args.seed), sys.stdin, "> " if sys.stdin.isatty() else "")
