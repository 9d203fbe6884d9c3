"""Steps a second of every training, beside PyTorch's DCGAN example, and, on a GPU, how much of a step it computes.

    python benchmarks/speed.py --dataset_dir data/celeba --out_dir /tmp/speed

Each row runs a project's own command in this process for --seconds (the first steps, which choose kernels and capture
CUDA graphs, are not counted), then profiles 20 steps on a GPU. The example (pytorch/examples, dcgan/main.py: its
networks, losses and optimizers, written here anew) is measured before and after each; ratios are to the mean of both.
"""

import argparse
import contextlib
import importlib
import json
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from common.photos import InputError, run_script

SIDES = "--min_faces 1 --source Male=1 --target Male=0"  # which a few drawn faces have
ROWS = {  # name -> project and flags; in brackets the batch
    "face_math document (64)": "face_math --run train",
    "face_math best (64)": "face_math --run train --recipe best",
    "face_math best, fp32 (64)": "face_math --run train --recipe best --precision fp32",
    "hyperencoder document (64)": "hyperencoder --train=True --patience 0",
    "hyperencoder best (64)": "hyperencoder --train=True --recipe best --patience 0",
    "facegen_attr dcgan2 document (32)": "facegen_attr --run train --model dcgan2",
    "facegen_attr dcgan2 best (32)": "facegen_attr --run train --model dcgan2 --recipe best",
    "facegen_attr dcgan5 best (32)": "facegen_attr --run train --model dcgan5 --recipe best",
    "deep_makeover document (16)": f"deep_makeover --run train --epoch 0 {SIDES}",
    "deep_makeover best (8)": f"deep_makeover --run train --epoch 0 {SIDES} --recipe best",
    "dapgan info_began document (16)": "dapgan --run train",
    "dapgan info_began best (16)": "dapgan --run train --recipe best",
    "dapgan infogan best (32)": "dapgan --run train --model infogan --recipe best",
}
EXAMPLE = "PyTorch's DCGAN example (64)"
HEADING = """| training (batch) | steps/s | by the example's | ms a step | the GPU computes | kernels | peak MB |
|---|---|---|---|---|---|---|"""
WARM = 80  # steps on a GPU until everything was captured: the lazy penalty comes every 16th, its graph after the third
PROFILED = 20


def alternate(seconds, *calls, least=3):
    """The median seconds of each of several calls, which take turns, after a first turn, for `seconds` each."""
    for call in calls:
        call()
    times, end = [[] for _ in calls], time.perf_counter() + seconds * len(calls)
    while len(times[0]) < least or time.perf_counter() < end:
        for call, mine in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            mine.append(time.perf_counter() - start)
    return list(map(statistics.median, times))


@contextlib.contextmanager
def signals_kept():
    """Ctrl-C and SIGTERM end this program again, once a training, which only stops itself at them, is over."""
    names = signal.SIGTERM, signal.SIGINT
    before = [signal.getsignal(name) for name in names]
    try:
        yield
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)


class EnoughError(BaseException):
    """Ends a training from within; no program catches it."""


class Clock:
    """Counts the steps of one training, times them, then profiles some."""

    def __init__(self, seconds, cuda):
        self.seconds, self.cuda, self.steps, self.begun, self.profiler, self.result = seconds, cuda, 0, 0.0, None, {}

    def now(self):
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def step(self):
        """Called after each step."""
        self.steps += 1
        if self.profiler:
            if self.steps == PROFILED:
                self.profiler.stop()
                kernels = [e for e in self.profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]
                busy = sum(event.time_range.elapsed_us() for event in kernels) / 1000
                self.result |= dict(kernel_ms=busy / PROFILED, kernels=len(kernels) / PROFILED)
                raise EnoughError
        elif not self.begun:
            if self.steps >= (WARM if self.cuda else 2):
                self.begun, self.steps = self.now(), 0
        elif self.steps >= 4 and time.perf_counter() - self.begun > self.seconds:
            self.result["rate"] = self.steps / (self.now() - self.begun)
            if not self.cuda:
                raise EnoughError
            self.result["peak_mb"] = torch.cuda.max_memory_allocated() / 2**20
            self.profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
            self.profiler.start()
            self.steps = 0


def time_training(line, args):
    """Run a training until the clock has seen enough; returns what it saw: rate, kernel_ms, kernels, peak_mb."""
    project, *flags = line.split()
    script, plumbing = (importlib.import_module(f"{project}.{name}") for name in ("main", "plumbing"))
    cuda = torch.cuda.is_available() and args.device != "cpu"
    clock, add = Clock(args.seconds, cuda), plumbing.Journal.add

    def watched(journal, **losses):
        add(journal, **losses)
        clock.step()

    never = ["--sample_every", "1000000", "--save_every", "1000000", "--epoch", "500"]
    run = Path(tempfile.mkdtemp(dir=args.out_dir))  # a new one for each: nothing is resumed
    places = dict(checkpoint_dir=run / "c", model_path=run / "m", sample_dir=run / "s")
    where = ["--record_dir", str(args.out_dir / "records")]
    where += [part for flag, place in places.items() for part in (f"--{flag}", str(place))]
    what = ["--dataset_dir", args.dataset_dir, "--device", args.device]
    plumbing.Journal.add = watched
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    try:
        with signals_kept():
            script.main([*what, *where, *never, *flags])
        raise KeyboardInterrupt  # it was asked to stop
    except EnoughError:
        pass
    except SystemExit as stop:
        clock.result["error"] = f"exit code {stop.code}"
    finally:
        plumbing.Journal.add = add
        shutil.rmtree(run)
    return clock.result


def example(device, batch=64, z_size=100, width=64):
    """The example's training step: fp32, NCHW, Adam as it comes, five numbers read every step."""

    def up(inputs, outputs, stride, padding):
        conv = nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU(True)]

    def down(inputs, outputs):
        conv = nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2, True)]

    maps = [8 * width, 4 * width, 2 * width, width]
    first, last = up(z_size, maps[0], 1, 0), nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False)
    ups = [layer for pair in zip(maps, maps[1:], strict=False) for layer in up(*pair, 2, 1)]
    generator = nn.Sequential(*first, *ups, last, nn.Tanh()).to(device)
    downs = [layer for pair in zip(maps[:0:-1], maps[-2::-1], strict=True) for layer in down(*pair)]
    first, last = nn.Conv2d(3, width, 4, 2, 1, bias=False), nn.Conv2d(maps[0], 1, 4, 1, 0, bias=False)
    discriminator = nn.Sequential(first, nn.LeakyReLU(0.2, True), *downs, last, nn.Sigmoid()).to(device)
    g_optimizer, d_optimizer = (
        torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999)) for network in (generator, discriminator)
    )
    criterion, real = nn.BCELoss(), torch.rand(batch, 3, 64, 64, device=device) * 2 - 1
    ones, zeros = torch.ones(batch, device=device), torch.zeros(batch, device=device)

    def step():
        discriminator.zero_grad()
        d_real = discriminator(real).view(-1)
        real_loss = criterion(d_real, ones)
        real_loss.backward()
        fake = generator(torch.randn(batch, z_size, 1, 1, device=device))
        d_fake = discriminator(fake.detach()).view(-1)
        fake_loss = criterion(d_fake, zeros)
        fake_loss.backward()
        d_optimizer.step()
        generator.zero_grad()
        d_again = discriminator(fake).view(-1)
        g_loss = criterion(d_again, ones)
        g_loss.backward()
        g_optimizer.step()
        return [x.item() for x in (real_loss + fake_loss, g_loss, d_real.mean(), d_fake.mean(), d_again.mean())]

    return step


def time_example(step, seconds, cuda):
    """Steps a second of the example."""
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = True, True  # as the example has it
    for _ in range(30 if cuda else 1):
        step()
    begun, steps = time.perf_counter(), 0
    while steps < 3 or time.perf_counter() - begun < seconds:
        step()
        steps += 1
    return steps / (time.perf_counter() - begun)


def measure(args, rows):
    """Yield the name of each row, and what its clock saw, with "example", the example's rate beside it."""
    cuda = torch.cuda.is_available() and args.device != "cpu"
    if not rows:
        return
    step = example(torch.device("cuda" if cuda else "cpu"))
    before = time_example(step, args.seconds, cuda)
    for name, line in rows.items():
        found = time_training(line, args)
        after = time_example(step, args.seconds, cuda)
        yield name, found | dict(example=(before + after) / 2)
        before = after


def describe(found):
    """The cells of a row: steps a second, by the example's, ms a step, of these the GPU computes, kernels, peak MB."""
    if "rate" not in found:
        return [found.get("error", "failed"), "", "", "", "", ""]
    ms, busy = 1000 / found["rate"], found.get("kernel_ms")
    cells = [f"{found['rate']:.3g}", f"{found['rate'] / found['example']:.2f}", f"{ms:.2f}"]
    if busy is None:
        return [*cells, "", "", ""]
    return [*cells, f"{busy:.2f} ({busy / ms:.0%})", f"{found['kernels']:.0f}", f"{found['peak_mb']:.0f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True, help="CelebA, or a set that common/synthetic.py has drawn")
    parser.add_argument("--out_dir", type=Path, required=True, help="packed records and speed.json")
    parser.add_argument("--seconds", type=float, default=4, help="of measuring, each row")
    parser.add_argument("--rows", default="", help="rows whose name holds this alone")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    args = parser.parse_args()

    args.out_dir.mkdir(parents=True, exist_ok=True)
    if not any(args.rows in name for name in ROWS):
        raise InputError(f"--rows {args.rows}: expected a part of one of {', '.join(ROWS)}")
    results = dict(measure(args, {name: line for name, line in ROWS.items() if args.rows in name}))
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    print(f"\n{where}, torch {torch.__version__}\n")
    print(HEADING)
    for name, found in results.items():
        print(f"| {name} | {' | '.join(describe(found))} |")
    rates = [found["example"] for found in results.values()]
    print(f"\n{EXAMPLE}: {min(rates):.3g} to {max(rates):.3g} steps/s")
    path = args.out_dir / "speed.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    run_script(main)
