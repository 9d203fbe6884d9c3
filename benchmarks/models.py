"""Train the models that come with the program anew, one after the other, and write the files and a card for each.

    make models DATA=data/celeba MINUTES=10
    python benchmarks/models.py --dataset_dir data/celeba --minutes 10 --out_dir out_models
    python benchmarks/models.py --dataset_dir data/celeba --only face_math deep_makeover/mtf

Each training is a project's own command, printed as it begins, on whatever the machine has: to the end of its recipe,
or until its minutes are over, when it is asked to stop as a person would, and saves. The same command again goes on
where it stopped. A folder for each project holds checkpoints, models and samples; shipped/<project>/ the files as they
lie in the repository, with a card (NAME.md) for each training: command, data, seed, steps, minutes, hardware, size,
licence. Nothing in the repository is written over: copy what is to be shipped. The digits are scikit-learn's (pip
install scikit-learn).
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from common.photos import InputError, run_script
from hyperencoder.plumbing import fail, number, path

BEST = "--recipe best"
# On 7,000 faces as many passes as a GPU makes in minutes; all files together may have 45 MB, hence the widths.
WIDE, LONG = "--width 40 --batch_size 64", "--batch_size 64 --epoch 400"
MTF = "--width 24 --batch_size 16 --annealing_half_life 4000 --diff_augment True"
FTM = "--width 24 --batch_size 16 --annealing_half_life 10000 --diff_augment True --pixel_loss_outside 0.06"
INFOGAN = f"--model infogan {BEST} --hidden 40 --noise_size 100"
TO_MEN = "--source Male=0,Eyeglasses=0 --target Male=1,Eyeglasses=0"
# What is shipped, in an order in which what builds on another comes after it: (file, the training, what ships it).
MODELS = [
    ("hyperencoder/best", f"--run train {BEST} --epoch 40", f"--run ship {BEST}"),
    ("face_math/gan", f"--run train {BEST} {WIDE} --epoch 300", f"--run ship {BEST}"),
    ("face_math/gan_encoder", f"--run train_encoder {BEST} {WIDE} --epoch 40", f"--run ship {BEST}"),
    ("face_math/gan_filler", f"--run train_filler {BEST} {WIDE} --epoch 200", f"--run ship {BEST}"),
    ("face_math/gan_vae", f"--run train_vae {BEST} {WIDE} --epoch 200", f"--run ship {BEST}"),
    ("facegen_attr/predictor", "--run train_predictor", f"--run ship --model dcgan2 {BEST}"),
    ("facegen_attr/dcgan2", f"--run train --model dcgan2 {BEST} --width 56 --lambda_attributes 0.2 {LONG}",
     f"--run ship --model dcgan2 {BEST}"),
    ("facegen_attr/dcgan5", f"--run train --model dcgan5 {BEST} --width 48 {LONG}",
     f"--run ship --model dcgan5 {BEST}"),
    ("deep_makeover/mtf", f"--run train --train_time 0 {BEST} {MTF}", f"--run ship {BEST}"),
    # As its target any man: beardless attractive ones, whom the mode asks for, are too few in a small data set.
    ("deep_makeover/ftm", f"--run train --train_time 0 {BEST} {TO_MEN} {FTM} --steps 30000",
     f"--run ship {BEST} {TO_MEN}"),
    ("dapgan/infogan", f"--run train {INFOGAN} {LONG} --steps 30000", f"--run ship --model infogan {BEST}"),
    ("dapgan/infogan_predictor", f"--run train_predictor {INFOGAN} {LONG} --steps 8000",
     f"--run ship --model infogan {BEST}"),
    ("dapgan/digits", f"--run train --data digits --model infogan {BEST} --hidden 16",
     f"--run ship --data digits --model infogan {BEST}"),
]  # fmt: skip
LICENCE = "trained on CelebA (Liu et al., ICCV 2015), whose terms hold for it: non-commercial research only"
DIGITS = "trained on the digits that scikit-learn ships (UCI, CC BY 4.0)"

# What is learned for a model once it is trained, and written into its file.
AFTER = {"facegen_attr/dcgan5": f"--run tune --model dcgan5 {BEST}"}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = lambda message: sys.exit(fail(message))
    minutes = number(float, "more than 0", lambda x: x > 0)
    parser.add_argument("--dataset_dir", type=path, required=True, help="CelebA, with its attributes")
    parser.add_argument("--minutes", type=minutes, help="of each training (default: to the end of its recipe)")
    parser.add_argument("--out_dir", type=path, default="out_models", help="for all that is made (default: out_models)")
    parser.add_argument("--only", nargs="+", default=[], help="projects or files, such as face_math deep_makeover/mtf")
    parser.add_argument("--flags", default="", help="further flags of each training, such as '--device cpu'")
    args = parser.parse_args(argv)
    args.chosen = [row for row in MODELS if not args.only or {row[0], row[0].split("/")[0]} & set(args.only)]
    known = {name for file, *_ in MODELS for name in (file, file.split("/")[0])}
    if strange := [name for name in args.only if name not in known]:
        raise InputError(f"--only {' '.join(strange)}: there are {', '.join(sorted(known))}")
    if not Path(args.dataset_dir).exists():
        raise InputError(f"--dataset_dir {args.dataset_dir}: no such folder")
    return args


def run(command, minutes=None):
    """A command in a process of its own, asked to stop after so many minutes; returns its exit code and the minutes.

    They count from where it begins to train: packing the pictures, which is done once, comes before.
    """
    how = dict(cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    with subprocess.Popen([sys.executable, *command[1:]], **how) as process:  # which, stopped by a person, saves
        began, clock = None, threading.Timer(60 * (minutes or 0), process.terminate)
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                if line.startswith("watch it: "):
                    began = time.monotonic()
                    if minutes:
                        clock.start()
            return process.wait(), (time.monotonic() - began) / 60 if began else 0
        except KeyboardInterrupt:  # which it has heard, too: it saves, and then ends
            print(process.stdout.read(), end="", flush=True)
            raise
        finally:
            clock.cancel()


def cpu_name():
    """What the processor calls itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def hardware():
    """What this machine has, in a few words."""
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return f"{gpu}{os.cpu_count()} cores of {cpu_name()}, threads: {torch.get_num_threads()}, torch {torch.__version__}"


def places(args, project):
    """The flags that say where a project's things lie."""
    out = Path(args.out_dir).absolute()
    found = dict(dataset_dir=Path(args.dataset_dir).absolute(), record_dir=out / "records")
    folders = dict(checkpoint_dir="checkpoint", sample_dir="samples", model_path="models")
    found |= {flag: out / project / folder for flag, folder in folders.items()}
    return [part for name, place in found.items() for part in (f"--{name}", str(place))]


def write_card(file, training, command, minutes):
    """Beside a shipped file NAME.pt: NAME.md, what it is and how it came about."""
    content = torch.load(file, map_location="cpu", weights_only=True)
    flags, project = content["args"], content["project"]
    after = AFTER.get(f"{project}/{file.stem}")
    digits = flags.get("data", "celeba") in ("digits", "mnist")
    rows = {
        "what": f"{project}, {flags['run']}, {flags.get('recipe')} recipe; tensors alone, matrices in 8 bits",
        "command": f"`python {project}/main.py --dataset_dir D {training}`" + (f", then `{after}`" if after else ""),
        "data": content["about"],
        "seed": flags["seed"],
        "steps": f"{content['state']['step']:,} of {flags['batch_size']}",
        "minutes": f"{minutes:.1f}",
        "hardware": hardware(),
        "size": f"{file.stat().st_size / 1e6:.2f} MB",
        "written by": f"`{shlex.join(command)}`",
        "licence": DIGITS if digits else LICENCE,
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    file.with_suffix(".md").write_text(f"# {project}/{file.name}\n\n| | |\n|---|---|\n{table}\n", encoding="utf-8")


def main(argv=None):
    """Train, ship, write cards; returns the shipped files."""
    args = parse_args(argv)
    out = Path(args.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    log = out / "minutes.json"
    spent = json.loads(log.read_text()) if log.exists() else {}
    trainings, failed = {file: line for file, line, _ in MODELS}, []
    for file, line, _ in args.chosen:
        project = file.split("/")[0]
        rest = [*places(args, project), *shlex.split(args.flags)]
        command = ["python", f"{project}/main.py", *line.split(), *rest]
        print(f"\n{file}: {shlex.join(command)}", flush=True)
        code, minutes = run(command, args.minutes)
        spent[file] = spent.get(file, 0) + minutes
        log.write_text(json.dumps(spent, indent=1) + "\n")
        if not code and file in AFTER:
            code, _ = run([*command[:2], *AFTER[file].split(), *rest])
        if code:
            failed.append(f"the training of {file} ended with exit code {code}")
    written = []
    for line in dict.fromkeys((file.split("/")[0], line) for file, _, line in args.chosen):
        project, folder = line[0], out / "shipped" / line[0]
        short = ["python", f"{project}/main.py", *line[1].split()]
        where = [*places(args, project), "--out_dir", str(folder.absolute()), "--overwrite"]
        before = {made: made.stat().st_mtime_ns for made in folder.glob("*.pt")}
        if code := run([*short, *where, *shlex.split(args.flags)])[0]:
            failed.append(f"{' '.join(short)} ended with exit code {code}")
            continue
        for made in sorted(folder.glob("*.pt")):
            name = f"{project}/{made.stem}"
            if before.get(made) != made.stat().st_mtime_ns and name in trainings:
                write_card(made, f"{trainings[name]} {args.flags}".strip(), short, spent.get(name, 0))
                written.append(made)
    total = sum(made.stat().st_size for made in out.glob("shipped/*/*.pt")) / 1e6
    print(f"\n{len(set(written))} files with their cards in {out / 'shipped'}, {total:.1f} MB in all")
    if failed:
        raise InputError("; ".join(failed))
    return written


if __name__ == "__main__":
    run_script(main)
