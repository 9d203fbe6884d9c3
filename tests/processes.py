"""A project's main() in processes of its own, as torchrun starts them, but forked from one that has torch already.

To start Python and to import torch takes seconds, for a torchrun of two processes three times over. A true command is
tests/test_hyperencoder.py's training; what torchrun itself does with one is tested once, in tests/test_face_math.py.
"""

import importlib
import multiprocessing
import os
import socket
import sys
import time

LIMIT = 200  # seconds
forked = multiprocessing.get_context("forkserver")
forked.set_forkserver_preload(["torch.utils.tensorboard", "torch._dynamo", "torch.distributed", "cv2", "tqdm"])


def begin(project, flags, output, environment, prepare):
    """In the new process: main(), its output in a file."""
    os.environ.update(environment)
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)
    import torch

    torch.set_num_threads(1)
    prepare()
    if project:
        importlib.import_module(f"{project}.main").main(flags)


def nothing():
    pass


def start(folder, project, *flags, world=0, prepare=nothing):
    """Start main() of a project in `world` processes that know of each other, or in one, without torchrun's variables.

    prepare: a function of a module, called first in each; without a project (None) it is all that is done. Returns the
    processes, and the files of what they print, in the folder.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes, outputs = [], [folder / f"output_{rank}.txt" for rank in range(max(1, world))]
    for rank, output in enumerate(outputs):
        variables = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        environment = {name: str(value) for name, value in variables.items() if world} | dict(CUDA_VISIBLE_DEVICES="")
        line = project, list(map(str, flags)), output, environment, prepare
        processes.append(forked.Process(target=begin, args=line))
        processes[-1].start()
    return processes, outputs


def finish(processes, outputs):
    """Wait for them; returns their exit codes and all that they printed. AssertionError: they do not end."""
    end = time.monotonic() + LIMIT
    for process in processes:
        process.join(max(0, end - time.monotonic()))
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
    printed = "".join(output.read_text() for output in outputs if output.exists())
    assert not late, f"more than {LIMIT} seconds: {printed}"
    return [process.exitcode for process in processes], printed


def train(folder, project, *flags):
    """A training in one process, to its end; returns what it printed. AssertionError: it ended with a mistake."""
    codes, printed = finish(*start(folder, project, *flags))
    assert codes == [0], printed
    return printed


def wait_for(text, processes, outputs):
    """Wait until one of them has printed a text. AssertionError: none does."""
    end = time.monotonic() + LIMIT
    while not any(output.exists() and text in output.read_text() for output in outputs):
        assert time.monotonic() < end and any(process.is_alive() for process in processes), f"none says {text!r}"
        time.sleep(0.05)
