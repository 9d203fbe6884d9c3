"""How long one request for one 64 x 64 picture takes, and what the weights weigh, beside the document's dcgan2.

    python benchmarks/request.py
    python benchmarks/request.py --model_path facegen_attr/models/celeba_dcgan2_64_best.pt

A request is what --run generate and the page do for one picture: noise and attributes in, uint8 pixels out.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from common.celeba import to_uint8
from common.photos import InputError, run_script
from facegen_attr.loading import read_model
from facegen_attr.model import NOISE, ConditionalGenerator, Generator


@torch.no_grad()
def milliseconds(generator, attributes, rounds, device="cpu"):
    """(rounds,) milliseconds of single requests, after a few that do not count."""
    times = []
    for i in range(rounds + 20):
        c = (torch.rand(1, attributes) < 0.5).float()
        start = time.perf_counter()
        to_uint8(generator(torch.randn(1, NOISE).to(device), c.to(device)))
        times.append((time.perf_counter() - start) * 1000)
        if i < 20:
            times.clear()
    return np.array(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", type=Path, help="a trained dcgan2 (default: fresh weights of the best recipe)")
    parser.add_argument("--rounds", type=int, default=300, help="requests that are timed (default: 300)")
    parser.add_argument("--threads", type=int, default=2, help="cores to use (default: 2)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    attributes, recipe, best = 8, "best", ConditionalGenerator(8, 64)
    if args.model_path:
        best, flags, *_ = read_model(args.model_path)
        if flags.model != "dcgan2":
            raise InputError(f"{args.model_path} is no dcgan2 but {flags.model}")
        attributes, recipe = len(flags.attributes), flags.recipe
    table = {f"{recipe} recipe": best.eval(), "document's dcgan2": Generator("dcgan2", attributes, 64).eval()}
    medians = []
    print(f"{'':20}parameters  weights   median     95%   of {args.rounds} requests, {args.threads} threads")
    for name, generator in table.items():
        generator.to(memory_format=torch.channels_last)
        times = milliseconds(generator, attributes, args.rounds)
        size = sum(value.numel() * value.element_size() for value in generator.state_dict().values())
        count = sum(p.numel() for p in generator.parameters())
        medians.append(np.median(times))
        print(f"{name:20}{count:10,}  {size / 1e6:.2f} MB  {medians[-1]:6.2f}  {np.quantile(times, 0.95):6.2f} ms")
    print(f"the {recipe} recipe takes {medians[0] / medians[1]:.2f} times the document's time")


if __name__ == "__main__":
    run_script(main)
