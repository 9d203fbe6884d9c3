"""Interactive refinement: a face, what is asked of it, every step on the way; and the talk in a terminal."""

import csv

from PIL import Image

from common.celeba import attribute_indices, to_uint8
from common.photos import InputError
from facegen_attr.model import contradictions

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
    step_000.png and so on, with steps.tsv. A step that is undone stays there.
    """

    def __init__(self, attributes, picture, c, render, folder):
        self.attributes, self.render, self.folder, self.written = attributes, render, folder, 0
        folder.mkdir(parents=True)
        self.steps = []  # (picture, degrees, what was asked for in this step)
        self.add(picture, c * 2 - 1, {})

    @property
    def degrees(self):
        """Name -> degree of the present step."""
        return dict(zip(self.attributes, self.steps[-1][1].tolist(), strict=True))

    def add(self, picture, degrees, asked):
        self.steps.append((picture, degrees, asked))
        name = f"step_{self.written:03d}.png"
        Image.fromarray(self.pixels()).save(self.folder / name)
        with open(self.folder / "steps.tsv", "a", newline="") as file:
            table = csv.writer(file, delimiter="\t", lineterminator="\n")
            if self.written == 0:
                table.writerow(["file", "asked", *self.attributes])
            text = ",".join(f"{attribute}={degree:g}" for attribute, degree in asked.items())
            table.writerow([name, text, *(f"{degree:g}" for degree in degrees.tolist())])
        self.written += 1

    def pixels(self, step=None):
        """A step's picture, by default the present one's, (H, W, 3) uint8."""
        return to_uint8((step or self.steps[-1])[0][None])[0]

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
        return [f"note: {pair} contradict each other; asked for all the same"
                for pair in contradictions([name for name, degree in self.degrees.items() if degree > 0])]  # fmt: skip

    def more(self, amount):
        """Ask for what the last step asked for by so much more."""
        asked = self.steps[-1][2]
        if not asked:
            raise InputError("nothing was asked for yet: begin with, say, +" + self.attributes[0])
        return self.change({name: max(-MOST, min(MOST, degree + (amount if degree > 0 else -amount)))
                            for name, degree in asked.items()})  # fmt: skip

    def undo(self):
        """Back to the step before."""
        if len(self.steps) == 1:
            raise InputError("nothing to undo: this is the first picture")
        self.steps.pop()

    def save(self, path):
        """Write the present picture. InputError: the file exists, or cannot be written."""
        try:
            with open(path, "xb") as file:
                Image.fromarray(self.pixels()).save(file, format="PNG")
        except FileExistsError:
            raise InputError(f"{path} exists: name another file") from None
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror})") from None


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
        raise InputError(f"{text!r}: expected a number such as 0.5") from None
    if value != value:
        raise InputError(f"{text!r}: expected a number such as 0.5")
    return value


def talk(session, lines, prompt=""):
    """Obey lines (an iterable of texts) until "quit" or their end; what goes wrong is said, and the next line read."""
    print(f"each step is written to {session.folder}; help lists what can be said")
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
                case ["save", path]:
                    session.save(path)
                    print(f"saved {path}")
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


