"""plumbing.py, one file that stands in all five projects (tests/test_parallel.py): flags, checkpoints, the logbook."""

import argparse
import importlib
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed as dist
from calls import mistake
from conftest import ROOT
from processes import finish, start
from test_parallel import PROJECTS

from common.photos import InputError
from hyperencoder import plumbing
from hyperencoder.plumbing import listen_for_stop

# Flags


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (plumbing.positive, "3", ("0", "-1", "1.5", "x", "")),
        (plumbing.natural, "0", ("-1", "1.5", "nan")),
        (plumbing.up_to(8), "8", ("0", "9", "1e9", "nan")),
        (plumbing.rate, "1e-4", ("0", "-1", "nan", "inf", "x")),
        (plumbing.weight, "0", ("-0.1", "nan", "inf")),
        (plumbing.decay, "0.99", ("1", "-0.1", "nan")),
        (plumbing.share, "1", ("1.01", "-0.1", "nan")),
    ],
)
def test_number_types_say_what_they_expect(kind, good, bad):
    assert kind(good) == float(good)
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match="expected"):
            kind(text)


def test_what_shapes_a_run_follows_from_the_groups():
    from hyperencoder.main import parse_args

    args = parse_args(["--dataset_name=a"])
    assert {"embed_size", "recipe", "seed", "learning_rate", "train_size", "people"} <= set(args.shaping)
    assert not {"epoch", "steps", "patience", "device", "images", "sample_every", "run"} & set(args.shaping)


def test_a_verb_finds_the_only_model_that_fits_or_names_those_there_are(tmp_path, capsys):
    """By what is in the files; those that --restart has moved aside do not count."""
    from face_math import plumbing as mine
    from face_math.main import parse_args

    def keep(name, data, recipe, run="train", size=32):
        flags = dict(run=run, name=name.split(".")[0], dataset_name=data, recipe=recipe, image_size=size, z_size=7)
        mine.save_checkpoint(tmp_path / f"models/{name}.pt", flags, {})

    verb = ["--run=sample", "--model_path", tmp_path / "models", "--checkpoint_dir", tmp_path / "checkpoint"]
    with pytest.raises(InputError, match="no model"):
        parse_args(verb)
    keep("a_32_best", "a", "best")
    keep("a_32_best.001", "a", "best")
    keep("a_32_best_encoder", "a", "best", run="train_encoder")
    for more in ([], ["--dataset_name=a"], ["--recipe=best"], ["--dataset_dir=here/a"]):
        args = parse_args([*verb, *more])
        assert (args.dataset_name, args.recipe, args.image_size, args.z_size) == ("a", "best", 32, 7), more
    assert args.command.startswith("python face_math/main.py --run=sample")
    keep("a_32", "a", "document")
    with pytest.raises(InputError, match="a_32 .--recipe document., a_32_best .--recipe best.: give the flags of one"):
        parse_args(verb)
    assert parse_args([*verb, "--recipe=best"]).recipe == "best"
    keep("b_32_best", "b", "best")
    with pytest.raises(InputError, match="--dataset_name a.*--dataset_name b"):
        parse_args([*verb, "--recipe=best"])
    args = parse_args([*verb[:1], "--model_path", tmp_path / "models/b_32_best.pt"])
    assert (args.dataset_name, args.image_size) == ("b", 32)
    with pytest.raises(InputError, match="a_32_best .--image_size 32 --recipe best."):
        parse_args([*verb, "--recipe=best", "--image_size=64"])
    with pytest.raises(InputError, match="expected a model file, NAME.pt, or a folder"):  # and no other model
        parse_args([*verb[:1], "--model_path", tmp_path / "nowhere"])
    small = dict(run="train", name="gan", dataset_name="shipped", recipe="best", image_size=32, z_size=7)
    file = tmp_path / "small/gan.pt"
    mine.write_content(file, dict(format=mine.FORMAT, project="face_math", about="of", args=small, state={}))
    args = parse_args([*verb[:1], "--model_path", file.parent])
    assert (args.model_path, args.z_size) == (str(file), 7), "the only one of a folder"
    (tmp_path / "models/torn.pt").write_bytes(b"torn")
    parse_args([*verb, "--dataset_name=b"])
    assert "torn.pt is no checkpoint of this program, or damaged: passed over" in capsys.readouterr().out


def test_which_model_is_said_by_flags_that_there_are(tmp_path):
    from deep_makeover import plumbing as mine
    from deep_makeover.main import parse_args

    for mode in ("mtf", "ftm"):
        flags = dict(run="train", name=mode, dataset_name="a", mode=mode, train_mode=mode, source=None, recipe="best")
        mine.save_checkpoint(tmp_path / f"{mode}.pt", flags, {})
    verb = ["--run=test", "--model_path", tmp_path]
    with pytest.raises(InputError, match="ftm .--train_mode ftm., mtf .--train_mode mtf.: give the flags of one"):
        parse_args(verb)
    assert parse_args([*verb, "--train_mode=ftm"]).mode == "ftm"


def test_flags_that_would_do_nothing_are_refused(capsys):
    from deep_makeover.main import parse_args as makeover
    from face_math.main import parse_args as face_math
    from facegen_attr.main import parse_args as facegen_attr

    for parse, run, flag, whose in (
        (facegen_attr, "generate", "--web", "refine"),
        (facegen_attr, "analyse", "--request=Male=1", "generate or refine"),
        (face_math, "average", "--mask=left", "complete"),
        (makeover, "test", "--all_faces", "inference"),
    ):
        with pytest.raises(InputError, match=f"{flag.split('=')[0]} is for --run {whose}, not for --run {run}"):
            plumbing.check_places(parse([f"--run={run}", "--dataset_dir=x", flag]))
    with pytest.raises(InputError, match="--out_dir is for another --run"):
        plumbing.check_places(argparse.Namespace(run="train", only={}, restart=False, out_dir="x"))
    for parse, line in ((makeover, ["--random_seed", "9" * 20]), (face_math, ["--dataset_dir=x", "--train_size=abc"])):
        with pytest.raises(SystemExit):
            parse(line)
    assert "at most 9223372036854775807" in (error := capsys.readouterr().err) and "--train_size: size abc" in error
    compare = ["--run=compare", "--search=best", "--dataset_dir=x", "--model_path", ROOT / "face_math/gan.pt"]
    assert face_math(compare).n_iter == 2000, "the document's search is compared, not 100 steps of it"


def test_results_do_not_replace_what_they_are_made_of(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "me.jpg").write_bytes(b"mine")
    flags = dict(run="sample", only={}, restart=False, overwrite=True, images=None, minus=None)
    for flag, given, out_dir in (
        ("images", photos / "me.jpg", photos), ("minus", photos, photos / "out"), ("images", photos, tmp_path),
    ):  # fmt: skip
        with pytest.raises(InputError, match="lie in one another"):
            plumbing.check_places(argparse.Namespace(**flags | {flag: [str(given)], "out_dir": str(out_dir)}))
    apart = dict(images=[str(photos / "me.jpg")], out_dir=str(photos / "out"))
    plumbing.check_places(argparse.Namespace(**flags | apart))


# Set-up


def test_fp32_is_fp32():
    """--precision fp32 allows no TF32, neither in matrix products nor in convolutions."""
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        args = argparse.Namespace(device="cpu", precision="fp32", seed=0)
        torch.backends.cudnn.allow_tf32 = True
        plumbing.setup(args)
        assert not torch.backends.cudnn.allow_tf32 and torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


@pytest.mark.parametrize(
    ("maker", "avx512_bf16", "amx", "fast"),
    [("Intel", 1, 0, False), ("Intel", 1, 1, True), ("AMD", 1, 0, True), ("AMD", 0, 0, False)],
)
def test_bf16_is_taken_where_a_cpu_is_faster_in_it(maker, avx512_bf16, amx, fast, tmp_path, monkeypatch):
    """AVX512-BF16 alone does not say so: Intel's, without AMX, is slower than fp32."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"vendor_id : Genuine{maker}\n")
    monkeypatch.setattr(plumbing, "Path", lambda path: cpuinfo)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bool(avx512_bf16))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: bool(amx))
    autocast = plumbing.setup(argparse.Namespace(device="cpu", precision="auto", seed=0))[1]
    with autocast():
        assert torch.is_autocast_enabled("cpu") == fast


def test_steps_draw_other_numbers_for_every_seed_and_step():
    """A CPU's generator reads 32 bits of a seed; both numbers must be in them."""
    drawn = set()
    for seed in (0, 1, 2**31):
        for step in (1, 2, 3):
            plumbing.seed_step(seed, step)
            drawn.add(torch.rand(()).item())
    assert len(drawn) == 9
    plumbing.seed_step(1, 2)
    again = torch.rand(()).item()
    assert again in drawn


def test_running_mean_shares_constants_and_follows_the_weights():
    class Net(torch.nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.register_buffer("axes", torch.ones(3))
            self.register_buffer("statistics", torch.zeros(3))

        def constants(self):
            return [self.axes]

    net = Net()
    ema = plumbing.make_ema(net)
    assert ema.axes is net.axes and ema.statistics is not net.statistics and not ema.weight.requires_grad
    before = ema.weight.clone()
    with torch.no_grad():
        net.weight.add_(1)
        net.statistics.add_(5)
    plumbing.update_ema(ema, net, torch.tensor(1.0))
    torch.testing.assert_close(ema.weight, before + 9 / 11, msg="early on the mean follows quickly")
    plumbing.update_ema(ema, net, torch.tensor(1e6))
    torch.testing.assert_close(ema.weight, before + 9 / 11 + 0.001 * 2 / 11)
    assert torch.equal(ema.statistics, net.statistics)


def test_a_running_mean_gets_batch_norms_statistics_of_its_own():
    """Those of what its own weights make of the batches that it is shown, and not of other weights."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    ema = plumbing.make_ema(net)
    with torch.no_grad():
        ema[0].weight.mul_(5)
    pictures = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    shown = []
    plumbing.settle([ema], lambda chosen: (shown.append(chosen), ema(pictures[chosen])), np.arange(40), size=8, count=5)
    made = ema[0](pictures).detach()
    assert sorted(np.concatenate(shown)) == list(range(40)) and not ema.training
    assert torch.allclose(ema[1].running_mean, made.mean(0), atol=1e-5)
    assert torch.allclose(ema[1].running_var, made.var(0), rtol=0.3)
    plumbing.settle([ema], shown.append, np.arange(3), size=8, count=2)  # few rows come again
    assert [len(chosen) for chosen in shown[-2:]] == [8, 8] and set(shown[-1]) == {0, 1, 2}
    plumbing.settle([torch.nn.Linear(2, 2)], None, np.arange(3), size=8)  # nothing to measure: nothing is run


def test_a_checkpoint_holds_constants_once(tmp_path):
    """hyperencoder's principal components are shared by the network and its running mean, in the file as well."""
    from hyperencoder.model import AutoEncoder

    model = AutoEncoder(100, 64, 64, multiplier=0.01, pca_path=False)
    constants = sum(buffer.nbytes for buffer in model.constants())
    plumbing.save_checkpoint(tmp_path / "last.pt", {}, {"model": model, "ema": plumbing.make_ema(model)}, step=1)
    assert (tmp_path / "last.pt").stat().st_size < 1.5 * constants
    content = plumbing.read_checkpoint(tmp_path / "last.pt")
    assert torch.equal(content["model"]["components"], content["ema"]["components"])


# Checkpoints


def test_a_previous_file_bears_its_own_name(tmp_path):
    for step in (1, 2):
        for name in ("a", "b"):
            plumbing.save_checkpoint(tmp_path / f"{name}.pt", {}, {}, step=step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.previous.pt", "a.pt", "b.previous.pt", "b.pt"]
    assert plumbing.read_checkpoint(tmp_path / "a.previous.pt")["state"]["step"] == 1


def test_there_is_a_model_at_every_moment(tmp_path, monkeypatch):
    """Whenever a file is moved into its place, the one before is still there under the name that is read."""
    path, replace = tmp_path / "a.pt", os.replace
    plumbing.save_checkpoint(path, {}, {}, step=1)

    def look(source, target):
        assert plumbing.read_checkpoint(path)["state"]["step"] == 1
        replace(source, target)

    monkeypatch.setattr(plumbing.os, "replace", look)
    plumbing.save_checkpoint(path, {}, {}, step=2)
    assert plumbing.read_checkpoint(path)["state"]["step"] == 2


def test_older_files_can_be_used_but_not_resumed(tmp_path):
    path = tmp_path / "last.pt"
    torch.save({"format": 1, "args": {"seed": 0}, "state": {"step": 5}}, path)
    assert plumbing.read_checkpoint(path)["state"]["step"] == 5
    with pytest.raises(InputError, match="cannot resume"):
        plumbing.load_checkpoint(path, {"seed": 0}, {})
    torch.save({"format": 3, "args": {}, "state": {}}, path)
    with pytest.raises(InputError, match="format 3"):
        plumbing.read_checkpoint(path)


@pytest.mark.parametrize("project", PROJECTS)
@pytest.mark.parametrize("kind", ["junk", "empty", "picture", "number", "another's", "other tensors", "bare"])
def test_a_file_that_is_no_model_is_one_line(project, kind, faces, tmp_path, capsys):
    """Whatever --model_path names: one line, exit code 2."""
    path = tmp_path / "model.pt"
    if kind == "picture":
        path.write_bytes(next((faces / "img_align_celeba").iterdir()).read_bytes())
    elif kind == "number":
        torch.save(7, path)
    elif kind == "another's":
        other = "face_math" if project != "face_math" else "dapgan"
        torch.save({"format": 2, "project": other, "args": {}, "state": {"step": 1}}, path)
    elif kind == "bare":
        torch.save({"format": 2, "generator": {}}, path)
    elif kind == "other tensors":
        torch.save({"format": 1, "args": {"seed": 0}, "state": {"step": 1}, "generator": {"a": torch.zeros(2)}}, path)
    else:
        path.write_bytes(b"junk" if kind == "junk" else b"")
    verb = {
        "hyperencoder": ("test",),
        "dapgan": ("sample",),
        "facegen_attr": ("generate", "--request=Male=1"),
        "deep_makeover": ("test",),
        "face_math": ("sample",),
    }[project]
    script = importlib.import_module(f"{project}.main")
    with pytest.raises(SystemExit) as stop:
        script.main(["--dataset_dir", str(faces), "--model_path", str(path), "--run", *verb])
    error = mistake(capsys)
    assert stop.value.code == 2 and (kind != "another's" or other in error)


# The logbook


def flags(folder, **more):
    """The flags that a logbook reads."""
    places = dict(checkpoint_dir=folder, model_path=str(folder / "models"), sample_dir=folder)
    numbers = dict(batch_size=2, epoch=3, steps=0, log_every=2, sample_every=0, save_every=0, seed=0, restart=False)
    return argparse.Namespace(shaping=["seed"], run="train", dataset_name="a", command="", **places | numbers | more)


def make_journal(folder, **more):
    return plumbing.Journal(flags(folder, **more), "a", {}, 8, "8 faces", {}, torch.device("cpu"), 0)


def test_what_a_changed_generator_outdates_begins_anew(tmp_path, capsys):
    """The old one is moved aside; other facts that differ are refused, without a flag to give."""

    def begin(**facts):
        journal = plumbing.Journal(flags(tmp_path), "a", {}, 8, "8 faces", facts, torch.device("cpu"), 0)
        for _ in journal.steps():
            journal.add(loss=torch.zeros(()))
            journal.keep_if_best(-journal.step)
            journal.save({})
            journal.stopping = journal.step == 2
        journal.close()
        return journal

    begin(inverts="one")
    assert begin(inverts="two").fresh and plumbing.read_checkpoint(tmp_path / "a/last.pt")["args"]["inverts"] == "two"
    assert plumbing.read_checkpoint(tmp_path / "models/a.001.pt")["args"]["inverts"] == "one"
    assert "it begins anew" in capsys.readouterr().out
    assert not begin(inverts="two").fresh
    index = (tmp_path / "a/index.tsv").read_text()
    assert index.count("sheets from") == 2, "that of the run as it is now"
    with pytest.raises(InputError, match="data was None, now other.: begin anew with --restart"):
        begin(inverts="two", data="other")


def test_the_logbook_knows_what_is_due(tmp_path, capsys):
    journal, due = make_journal(tmp_path, sample_every=5), {"sheet_due": [], "save_due": [], "epoch_end": []}
    for step in journal.steps():
        assert journal.now.item() == step
        journal.add(d=torch.tensor(float(step)))
        for name, steps in due.items():
            steps += [step] if getattr(journal, name) else []
        journal.keep_if_best(abs(step - 6))
        journal.save({})
    journal.close()
    assert due == {"sheet_due": [5, 10, 12], "save_due": [4, 8, 12], "epoch_end": [4, 8, 12]}
    assert journal.state["best_step"] == 6 and plumbing.read_checkpoint(tmp_path / "models/a.pt")["state"]["step"] == 6
    assert "trained 12 of 12 steps" in capsys.readouterr().out
    assert list(make_journal(tmp_path).steps()) == [] and "already" in capsys.readouterr().out


def test_of_equally_good_models_the_newest_is_kept_and_never_a_collapsed_one(tmp_path):
    journal, kept = make_journal(tmp_path), []
    for step, score in zip(journal.steps(), [math.inf, 3.0, 0.5, 0.7, 0.5, math.inf], strict=False):
        journal.add(d=torch.zeros(()))
        kept += [step] if journal.keep_if_best(score) else []
    assert kept == [2, 3, 5] and journal.state["best_step"] == 5


def test_a_run_of_an_older_program_goes_on_and_is_judged_anew(tmp_path):
    journal = make_journal(tmp_path)
    for _ in journal.steps():
        journal.add(d=torch.zeros(()))
        journal.keep_if_best(0.1)
        journal.save({})
    for more, best in (({}, 0.1), (dict(augmented=0.25), math.inf)):
        state = plumbing.Journal(flags(tmp_path), "a", {}, 8, "8 faces", {}, torch.device("cpu"), 0, **more).state
        assert state["step"] == 12 and state["best"] == best and state.items() >= more.items()


def test_a_run_that_ends_before_its_first_sheet_names_no_model(tmp_path, capsys):
    journal = make_journal(tmp_path, steps=1, sample_every=5)
    for _ in journal.steps():
        journal.add(d=torch.zeros(()))
        journal.save({})
    journal.close()
    output = capsys.readouterr().out
    assert "trained 1 of 12 steps" in output and "inf" not in output and "models" not in output


def test_the_first_loss_that_is_not_finite_is_named(tmp_path, capsys):
    journal = make_journal(tmp_path, log_every=4)
    with pytest.raises(SystemExit) as stop:
        for step in journal.steps():
            journal.add(d=torch.tensor(float("nan") if step >= 3 else 1.0), g=torch.ones(()))
            journal.save({})
    assert stop.value.code == 1 and "not finite at step 3" in capsys.readouterr().err
    assert not (tmp_path / "a/last.pt").exists(), "a step whose loss is not finite is not saved"


def stop_in_turn():
    """Rank 0 is told to stop and tells the other, which is then told as well."""
    dist.init_process_group("gloo")
    rank, stop_requested = dist.get_rank(), listen_for_stop()
    if rank == 0:
        signal.raise_signal(signal.SIGTERM)
    print(rank, stop_requested())
    if rank == 1:
        signal.raise_signal(signal.SIGTERM)  # its own first: it has only heard of the other's
    print(rank, "saved", stop_requested())
    dist.destroy_process_group()


def test_two_processes_that_are_told_to_stop_at_different_times_both_save(tmp_path):
    """A rank that waits for the others and is then told to stop as well must not die of it.

    The flag that travels must not be the one that the signal handler reads as "asked before".
    """
    codes, printed = finish(*start(tmp_path, None, world=2, prepare=stop_in_turn))
    lines = [line for line in printed.splitlines() if line[:2] in ("0 ", "1 ")]
    assert codes == [0, 0] and sorted(lines) == ["0 True", "0 saved True", "1 True", "1 saved True"], printed


# The script


def test_ctrl_c_during_the_imports_leaves_no_traceback():
    command = [sys.executable, "-X", "importtime", ROOT / "hyperencoder/main.py", "--help"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    next(line for line in process.stderr if " torch." in line)  # the first of its parts: seconds are left
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors and process.returncode == -signal.SIGINT, errors


@pytest.mark.parametrize("lost", [torch.OutOfMemoryError(), MemoryError(), RuntimeError("can't allocate memory: 9")])
def test_out_of_memory_names_the_batch_size_to_try(lost, capsys, monkeypatch):
    def verb(args):
        raise lost

    args = argparse.Namespace(run="train", batch_size=64, shipped="")
    monkeypatch.setattr(plumbing, "check_places", lambda args: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as stop:
        plumbing.run(lambda argv: args, {"train": verb})
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: out of memory with --batch_size 64: try --batch_size 32\n"
    args.run = "sample"  # which has no batches
    with pytest.raises(SystemExit):
        plumbing.run(lambda argv: args, {"sample": verb})
    assert capsys.readouterr().err == "error: out of memory\n"
    lost = RuntimeError("sizes do not fit")  # what is a mistake of the program is shown as one
    with pytest.raises(RuntimeError, match="do not fit"):
        plumbing.run(lambda argv: args, {"sample": verb})
