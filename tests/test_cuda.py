"""All trainings and verbs on CUDA, at tiny sizes: the steps as graphs, and what comes of them on the device.

Skipped without a GPU. `make test-gpu` runs this file; `make test-gpu PY=python3` with a Python that is there.
"""

import pytest
import torch
from trainings import TRAININGS, base_flags, call, flags_of, modules_of, project_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # torch warns that set_sync_debug_mode does not yet find all that waits
    pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning"),
]
DEVICE = "cuda"
STEPS = 14  # three as they are, one captured, the others replayed; with the lazy penalty every second one


@pytest.fixture(autouse=True)
def same_kernels(monkeypatch):
    """cuDNN's choice of kernels would differ from run to run: the one that is deterministic, without a benchmark."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    yield
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("default")


def run(name, faces, folder, monkeypatch, *more, graphs=True):
    """A training on CUDA; returns its losses (steps, losses) and whether each step was one that a graph replayed."""
    losses, replays = [], []
    with monkeypatch.context() as patch:
        for module in modules_of(name):
            if hasattr(module, "R1_EVERY") and not module.__name__.endswith(".gan"):
                patch.setattr(module, "R1_EVERY", 2)
            if hasattr(module, "setup"):

                def setup(args, plain=module.setup):
                    found = plain(args)
                    torch.backends.cudnn.benchmark = False
                    return found

                patch.setattr(module, "setup", setup)
            if hasattr(module, "replayed") and not module.__name__.endswith(".plumbing"):

                def replayed(step, device, plain=module.replayed):
                    def strict(*tensors, **flags):  # runs while it is not replayed
                        replays[-1] = torch.cuda.is_current_stream_capturing()
                        if len(replays) > 2 and not replays[-1]:  # optimizers make their state in the first
                            torch.cuda.set_sync_debug_mode("error")
                        try:
                            return step(*tensors, **flags)
                        finally:
                            torch.cuda.set_sync_debug_mode("default")

                    inner = plain(strict, device) if graphs else strict

                    def outer(*tensors, **flags):
                        replays.append(True)
                        return inner(*tensors, **flags)

                    return outer

                patch.setattr(module, "replayed", replayed)
            if module.__name__.endswith(".plumbing"):

                def add(journal, plain=module.Journal.add, **lost):
                    losses.append(torch.stack([loss.detach().float() for loss in lost.values()]))
                    return plain(journal, **lost)

                patch.setattr(module.Journal, "add", add)
        flags = ("--device", DEVICE, "--precision", "fp32", "--log_every", 7, "--sample_every", 1000, *more)
        call(name, flags_of(name, faces, folder, *flags))
    return torch.stack(losses).cpu(), replays


def prepare(name, faces, folder):
    """What a training needs that was trained before it."""
    if after := TRAININGS[name][1]:
        call(after, flags_of(after, faces, folder, "--device", DEVICE, "--steps", 1))


@pytest.fixture
def pictures(request, faces, crowd):
    """The data set of a training."""
    return crowd if request.node.callspec.params["name"].startswith("deep_makeover") else faces


@pytest.mark.parametrize("name", TRAININGS)
def test_graphs_lose_what_steps_lose(name, pictures, tmp_path, monkeypatch, capsys):
    """The same losses with graphs and without, and nothing in a step waits for the host."""
    found = {}
    for graphs in (True, False):
        folder = tmp_path / str(graphs)
        prepare(name, pictures, folder)
        found[graphs], replays = run(name, pictures, folder, monkeypatch, "--steps", STEPS, graphs=graphs)
        assert sum(replays) >= STEPS - 8 if graphs else not any(replays), f"{sum(replays)} steps were replayed"
    assert "without a CUDA graph" not in capsys.readouterr().out
    with_graphs, without = found.values()
    assert with_graphs.isfinite().all()
    torch.testing.assert_close(with_graphs, without, rtol=2e-2, atol=2e-3)
    torch.testing.assert_close(with_graphs[:8], without[:8], rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("name", ["hyperencoder best", "dapgan info_began best", "facegen_attr dcgan2 best",
                                  "deep_makeover best", "face_math best"])  # fmt: skip
def test_a_resumed_run_goes_on_as_the_uninterrupted_one(name, pictures, tmp_path, monkeypatch):
    once, _ = run(name, pictures, tmp_path / "once", monkeypatch, "--steps", STEPS)
    first, _ = run(name, pictures, tmp_path / "twice", monkeypatch, "--steps", 7)
    second, _ = run(name, pictures, tmp_path / "twice", monkeypatch, "--steps", STEPS)
    torch.testing.assert_close(torch.cat([first, second]), once, rtol=2e-2, atol=2e-3)


def test_a_gpus_checkpoint_goes_on_on_a_cpu_and_back(faces, tmp_path):
    flags = flags_of("face_math best", faces, tmp_path, "--precision", "fp32")
    for steps, device in ((2, DEVICE), (4, "cpu"), (9, DEVICE)):
        call("face_math best", [*flags, "--device", device, "--steps", str(steps)])
    from face_math.plumbing import read_checkpoint

    (path,) = tmp_path.glob("checkpoint/*/last.pt")
    assert read_checkpoint(path)["state"]["step"] == 9


def test_bf16_trains_is_finite_and_says_what_memory_it_took(faces, tmp_path, monkeypatch, capsys):
    losses, _ = run("face_math best", faces, tmp_path, monkeypatch, "--steps", STEPS, "--precision", "bf16")
    assert losses.isfinite().all() and "MB of GPU memory" in capsys.readouterr().out


VERBS = {
    "hyperencoder best": [
        "--train=False",
        "--run anomaly",
        "--train=False --images {photo} --out_dir {out}",
    ],
    "hyperencoder swap": ["--run swap --people 1,2 --images {photo} --out_dir {out}"],
    "dapgan infogan best": [
        "--run sample --count 4",
        "--run recover --count 4",
        "--run vary --count 2",
        "--run augment --images {photo} --out_dir {out} --count 4 --min_identity 0 --min_quality 0",
        "--run evaluate --attributes Smiling --few 3 --seeds 2 --out_dir {out}",
    ],
    "facegen_attr dcgan2 best": ["--run generate --request Male=1 --count 4"],
    "facegen_attr dcgan5 best": [
        "--run train_predictor --steps 4",
        "--run tune",
        "--run generate --request Smiling=1 --count 4",
    ],
    "deep_makeover best": ["--run test", "--run inference --infile {photo} --outfile {out}.png --keep_all"],
    "face_math best": [
        "--run sample --count 4",
        "--run project --count 4 --n_iter 3",
        "--run complete --count 4 --start encoder --n_iter 3",
        "--run interpolate --images {photo} {photo} --frames 3 --n_iter 3",
        "--run average --count 4 --n_iter 3",
        "--run arithmetic --count 4 --attributes Smiling --n_iter 3",
    ],
}


@pytest.mark.parametrize("name", VERBS)
def test_verbs_run_on_the_gpu(name, pictures, tmp_path):
    photo = next((pictures / "img_align_celeba").iterdir())
    call(name, flags_of(name, pictures, tmp_path, "--device", DEVICE, "--steps", 4))
    model = TRAININGS[name][0].partition("--model")[2].split()[:1]
    model = ["--model", *model] if model else []
    for number, line in enumerate(VERBS[name]):
        verb = line.format(photo=photo, out=tmp_path / f"out_{number}").split()
        base = base_flags(project_of(name), pictures, tmp_path)
        call(name, [*base, "--device", DEVICE, "--recipe", "best", *model, *verb])
