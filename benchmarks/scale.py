"""The same training with one process, with two, and on two nodes of one machine: same losses, and how much faster.

Rows of `make bench`; deep_makeover's best recipe, which has no batch norm, on a CPU with one thread for each process.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

STEPS = 8
FLAGS = f"--run train --recipe best --source Smiling=0 --target Smiling=1 --min_faces 1 --steps {STEPS}".split()
FLAGS += "--batch_size 16 --device cpu --precision fp32".split()
WAYS = {  # name -> what torchrun is given, for each node
    "one process": ["--nnodes=1 --nproc_per_node=1"],
    "two processes": ["--nnodes=1 --nproc_per_node=2"],
    "two nodes": ["--nnodes=2 --nproc_per_node=1"] * 2,
}


def torchrun(args):
    """Rows: the losses of each way beside those of one process, and how much of twice its speed is reached."""
    found = {name: launch(name, nodes, args) for name, nodes in WAYS.items()}
    losses, first = found["one process"]
    for name in list(WAYS)[1:]:
        mine, seconds = found[name]
        apart = max(abs(a - b) for a, b in zip(losses, mine, strict=True)) / max(map(abs, losses))
        from data import row

        yield row(
            f"torchrun, {name}: losses of {STEPS} steps within {apart:.2%}", f"{1 / seconds:.2f}", "steps/s",
            "one process", f"{1 / first:.2f}", first / seconds, f"same losses; efficiency {first / seconds / 2:.0%}",
        )  # fmt: skip


def launch(name, nodes, args):
    """Train with torchrun on so many nodes of this machine; the losses of all steps, and the median seconds of one."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    place = args.out_dir / "torchrun"
    told = place / f"{name.replace(' ', '_')}.json"
    where = ["--dataset_dir", args.dataset_dir, "--record_dir", args.out_dir / "records", "--restart"]
    for kind in ("checkpoint_dir", "model_path", "sample_dir"):
        where += [f"--{kind}", place / kind]
    processes = []
    for number, node in enumerate(nodes):
        meet = f"--rdzv_backend=c10d --rdzv_endpoint=localhost:{port} --rdzv_id={port} --node_rank={number}".split()
        command = [sys.executable, "-m", "torch.distributed.run", *node.split(), *meet, "--", __file__, told]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        pipes = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        processes.append(subprocess.Popen(list(map(str, [*command, *FLAGS, *where])), env=environment, **pipes))
    errors = [process.communicate()[1] for process in processes]
    if any(process.returncode for process in processes):
        said = [line for line in "\n".join(errors).splitlines() if "error: " in line.lower()]
        raise RuntimeError(f"{name}: {said[0] if said else errors[0][-200:]}")
    return json.loads(told.read_text())


def work(told, flags):
    """One of torchrun's processes: train, and, of the first one, write what each step lost and how long it took."""
    import torch

    from deep_makeover import main, plumbing

    add, losses, times = plumbing.Journal.add, [], []

    def watched(journal, **now):
        times.append(time.perf_counter())
        means = plumbing.mean_of_processes(torch.stack([loss.detach().float() for loss in now.values()]))
        losses.extend(means.tolist())
        add(journal, **now)

    plumbing.Journal.add = watched
    main.main(flags)
    if os.environ["RANK"] == "0":
        steps = [b - a for a, b in zip(times[1:], times[2:], strict=False)]  # the first ones choose kernels
        Path(told).write_text(json.dumps([losses, statistics.median(steps)]))


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2:])
