"""A project's main() in this process, the flags that say where it writes, and what it has written, read again."""

import csv

import torch


def caller(script):
    """call("--flag", ...): main() of a project; returns its exit code."""

    def call(*flags):
        torch.manual_seed(0)
        try:
            script.main([str(flag) for flag in flags])
        except SystemExit as stop:
            return stop.code
        return 0

    return call


def places(folder):
    """The flags that keep all that a run writes below a folder."""
    names = dict(record_dir="records", checkpoint_dir="checkpoint", model_path="models", sample_dir="samples")
    return [str(part) for flag, name in names.items() for part in (f"--{flag}", folder / name)]


def mistake(capsys):
    """What was said of a mistake: one line, and nothing else."""
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: "), line
    return line


def table(path):
    """The rows of a table with tabs, as dicts."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def logged(logs):
    """What TensorBoard would show of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(logs)).Reload()


def same(a, b):
    """Whether two nests of dicts, lists, tensors and plain values are equal to the last bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
