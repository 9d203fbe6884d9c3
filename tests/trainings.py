"""Every training of all five projects at a tiny size, for tests that look at them all: name -> (flags, after which).

But for face_math's train_filler, whose step is not replayed: each hole is of another size.
"""

import importlib
import sys

SMALL = {
    "hyperencoder": "--width_multiplier 0.0625 --embed_size 8 --batch_size 4",
    "dapgan": "--image_size 32 --hidden 8 --batch_size 8",
    "facegen_attr": "--image_size 32 --batch_size 8",
    "deep_makeover": "--source Male=1 --target Male=0 --min_faces 5 --batch_size 2 --scale 0.5",
    "face_math": "--image_size 32 --width 8 --z_size 16 --batch_size 8",
}
TRAININGS = {
    "hyperencoder document": ("--train=True --patience 0", None),
    "hyperencoder best": ("--train=True --recipe best", None),
    "hyperencoder swap": ("--run train_swap --people 1,2 --recipe best", None),
    "dapgan info_began document": ("--run train --model info_began", None),
    "dapgan info_began best": ("--run train --model info_began --recipe best", None),
    "dapgan began document": ("--run train --model began", None),
    "dapgan infogan document": ("--run train --model infogan", None),
    "dapgan infogan best": ("--run train --model infogan --recipe best", None),
    "dapgan predictor": ("--run train_predictor --model infogan --recipe best", "dapgan infogan best"),
    "facegen_attr fcgan": ("--run train --model fcgan --image_size 64", None),
    "facegen_attr dcgan2 document": ("--run train --model dcgan2", None),
    "facegen_attr dcgan4 document": ("--run train --model dcgan4", None),
    "facegen_attr dcgan4 augmented": ("--run train --model dcgan4 --diff_augment", None),
    "facegen_attr dcgan5 document": ("--run train --model dcgan5", None),
    "facegen_attr dcgan2 best": ("--run train --model dcgan2 --recipe best", None),
    "facegen_attr dcgan5 best": ("--run train --model dcgan5 --recipe best", None),
    "facegen_attr predictor": ("--run train_predictor", None),
    "deep_makeover document": ("--run train", None),
    "deep_makeover best": ("--run train --recipe best", None),
    "deep_makeover augmented": ("--run train --recipe best --diff_augment --instance_noise 0.2", None),
    "deep_makeover wgan": ("--run train --loss wgan --disc_loss_threshold 0", None),
    "face_math document": ("--run train", None),
    "face_math best": ("--run train --recipe best", None),
    "face_math encoder": ("--run train_encoder --recipe best", "face_math best"),
    "face_math vae": ("--run train_vae --recipe best", None),
}


def project_of(name):
    """The folder of a training."""
    return name.split()[0]


def base_flags(project, faces, folder):
    """What a project's trainings and verbs share: the data set, the tiny sizes, the places below a folder.

    The pictures are packed once for all tests, beside the data set.
    """
    places = dict(checkpoint_dir=folder / "checkpoint", model_path=folder / "models", sample_dir=folder / "samples")
    places |= dict(record_dir=faces.parent / "records")
    places = [part for flag, place in places.items() for part in (f"--{flag}", str(place))]
    return ["--dataset_dir", str(faces), *places, *SMALL[project].split(), "--workers", "0"]


def flags_of(name, faces, folder, *more):
    """The command line of a training; more: flags that win."""
    line = [*TRAININGS[name][0].split(), "--epoch", "100", *map(str, more)]
    return [*base_flags(project_of(name), faces, folder), *line]


def call(name, flags):
    """main() of a project in this process. AssertionError: it ended with a mistake."""
    script = importlib.import_module(f"{project_of(name)}.main")
    try:
        script.main(flags)
    except SystemExit as stop:
        assert not stop.code, f"{name}: exit code {stop.code}"


def modules_of(name):
    """The modules of a project that are loaded."""
    importlib.import_module(f"{project_of(name)}.main")
    return [module for path, module in sys.modules.items() if path.startswith(f"{project_of(name)}.")]
