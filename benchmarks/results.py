"""Every number of the models that come with the program, measured anew, as tables.

    make results DATA=data/celeba
    python benchmarks/results.py --dataset_dir data/celeba --write RESULTS.md
    python benchmarks/results.py --dataset_dir drawn --quick --out_dir out_results
It calls the projects' own verbs and the other benchmarks, on the test part of the data set, and writes tables.md; with
--write also what stands between the two marks of that file. Each table has its command. What cannot be measured here
(a model that is not there, packages of requirements-bench.txt) is said in its place. --quick measures with so few
pictures that the numbers say nothing: whether all of it runs. --only chooses tables by the beginnings of their names;
of the others what was measured last with this --out_dir stays, as long as models and data set are the same.
"""

import argparse
import functools
import importlib
import json
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch

ROOT = MODELS = Path(__file__).resolve().parents[1]  # MODELS: where <project>/<name>.pt lie
sys.path.insert(0, str(ROOT))
from benchmarks import edits, holes, makeover, person, quality
from common.photos import InputError, run_script
from face_math.arithmetic import yaw
from hyperencoder.plumbing import fail, path

BEGIN, END = "<!-- make results -->", "<!-- end of make results -->"
PROJECTS = ("hyperencoder", "face_math", "facegen_attr", "deep_makeover", "dapgan")


class Table(NamedTuple):
    """What was measured: a title, the commands in words, the head, and the rows, of texts."""

    title: str
    command: str
    head: list
    rows: list


class Bench:
    """Where things lie, and how much is measured."""

    def __init__(self, args):
        self.data, self.out, self.cache = str(args.dataset_dir), Path(args.out_dir).absolute(), Path(args.cache_dir)
        self.quick = args.quick

    def many(self, count, few=24):
        return str(few if self.quick else count)

    def dapgan(self):
        """The model of faces that is there, infogan or info_began."""
        return next((f"dapgan/{name}" for name in ("infogan", "info_began") if (MODELS / f"dapgan/{name}.pt").exists()),
                    "dapgan/infogan")  # fmt: skip

    def model(self, file):
        """A model's path. InputError: it is not there."""
        if not (found := MODELS / f"{file}.pt").exists():
            raise InputError(f"{file}.pt is not there: make models trains it")
        return found

    def flags(self, file):
        """The flags that all calls of a project share: its model, the data set, where records and results go."""
        project, name = file.split("/")
        out = self.out / project / name
        found = dict(dataset_dir=self.data, record_dir=self.cache / "records", model_path=self.model(file))
        return [f"--{flag}={value}" for flag, value in (found | dict(sample_dir=out)).items()]

    def call(self, file, line, into):
        """A verb of a project in this process; returns the folder it wrote. InputError: it ended with a mistake."""
        folder = self.out / file / into
        main = importlib.import_module(f"{file.split('/')[0]}.main").main
        finish(main, [*line.split(), *self.flags(file), f"--out_dir={folder}", "--overwrite"])
        return folder

    def judge(self, images, manifest=None, **more):
        """What benchmarks/quality.py says of the pictures in a folder."""
        line = ["--dataset_dir", self.data, "--images", str(images), "--cache_dir", str(self.cache)]
        line += ["--manifest", str(manifest)] if manifest else []
        line += ["--epoch", "1"] if self.quick else []
        return quality.measure(quality.parse_args([*line, *more.get("flags", [])]))


def finish(function, argv):
    """function(argv), where an exit with a code is an InputError."""
    try:
        return function(list(map(str, argv)))
    except SystemExit as stop:
        if stop.code == 130:
            raise KeyboardInterrupt from None
        if stop.code:
            raise InputError(f"exit code {stop.code}") from None


def rows_of(file):
    """A table with tabs as a list of dicts."""
    head, *rows = [line.split("\t") for line in Path(file).read_text(encoding="utf-8").splitlines()]
    return [dict(zip(head, row, strict=True)) for row in rows]


def kid(numbers):
    """KID in words."""
    found = numbers.get("kid")
    return f"{found['kid']:.1f} +- {found['std']:.1f}" if found else "not measured"


# ---------------------------------------------------------------------------------------------------------------------
# The tables


def shipped(bench):
    rows, total = [], 0
    for file in [file for project in PROJECTS for file in sorted((MODELS / project).glob("*.pt"))]:
        content, size = torch.load(file, map_location="cpu", weights_only=True), file.stat().st_size / 1e6
        flags, total = content["args"], total + size
        steps = f"{content['state']['step']:,} of {flags['batch_size']}" if "batch_size" in flags else ""
        name = f"`{file.parent.name}/{file.name}`"
        rows.append([name, f"{size:.2f}", flags.get("recipe", ""), steps, content["about"]])
    if not rows:
        raise InputError("no model is there: make models trains them")
    rows.append(["all", f"{total:.2f}", "", "", ""])
    return Table("The files", "ls -l */*.pt", ["file", "MB", "recipe", "steps", "data"], rows)


def reconstruction(bench):
    out = bench.call("hyperencoder/best", "--train=False", "test")
    m = json.loads((out / "metrics.json").read_text())
    embed, files = quality.load_identity(quality.FACE_CROP), sorted(f.name for f in (out / "source").glob("*.png"))
    person = {folder: embed(quality.read_pictures([out / folder / name for name in files]))
              for folder in ("source", "pca", ".") if embed}  # fmt: skip
    arms = [("mean face", "mean_face_", ""), ("PCA of equal size", "pca_", "pca")]
    arms += [("encoder alone", "encoder_", ""), ("encoder and search", "", ".")]
    rows = []
    for label, key, folder in arms:
        similar, same = m.get(f"{key}ssim"), ""
        if folder in person:
            distance = (person[folder] - person["source"]).norm(dim=1)
            same = f"{(distance < quality.SAME_PERSON).float().mean().item():.1%}"
        rows.append([label, f"{m[f'{key}mse_01']:.5f}", f"{m[f'{key}psnr']:.2f}", f"{similar:.3f}" if similar else "",
                     same])  # fmt: skip
    what = f"{m['faces']} test faces, {m['embed_size']} numbers"
    return Table(f"hyperencoder: reconstruction, {what}", "python hyperencoder/main.py --dataset_dir D --train=False",
                 ["", "MSE in [0,1]", "PSNR", "SSIM", "the same person (dlib)"], rows)  # fmt: skip


def anomalies(bench):
    file = bench.call("hyperencoder/best", "--run anomaly", "anomaly") / "anomaly.json"
    rows = [[kind.replace("_", " "), f"{found['auc']:.3f}", f"{found['auc_two_sided']:.3f}"]
            for kind, found in json.loads(file.read_text()).items()]  # fmt: skip
    return Table("hyperencoder: anomalies, ROC-AUC", "python hyperencoder/main.py --dataset_dir D --run anomaly",
                 ["kind", "error", "two-sided"], rows)  # fmt: skip


def drawn(bench):
    """How real 500 drawn faces look, of each model that draws."""
    rows = []
    for file, line, folder in (("face_math/gan", "--run sample --count", "faces"),
                               ("facegen_attr/dcgan2", "--run generate --count", "."),
                               (bench.dapgan(), "--run sample --count", "pictures")):  # fmt: skip
        try:
            out = bench.call(file, f"{line} {bench.many(500)}", "drawn")
            numbers = bench.judge(out / folder, out / "manifest.tsv" if folder == "." else None)
        except InputError as error:
            rows.append([file, str(error), "", "", ""])
            continue
        p = numbers.get("pictures")
        more = [f"{p['shift']:.1f}", f"{p['grid_db']:+.1f}", f"{p['copies']:.1%}"] if p else ["not measured"] * 3
        rows.append([file, kid(numbers), *more])
    head = ["model", "KID-EffNet x 1000", "mean colour off", "grid, dB", "copies"]
    command = "`--run sample --count 500`, facegen_attr `--run generate --count 500`, then benchmarks/quality.py"
    return Table("Drawn faces, 500 of each", command, head, rows)


def projection(bench):
    out = bench.call("face_math/gan", f"--run compare --count {bench.many(64, 4)} --strengths 2 --n_iter "
                     f"{bench.many(300, 2)}", "compare")  # fmt: skip
    rows = [[row["method"], row["mse"], row["psnr"], row["ssim"], row["seconds_per_face"]]
            for row in rows_of(out / "table.tsv")]  # fmt: skip
    return Table("face_math: projection, the first 64 test faces",
                 "python face_math/main.py --dataset_dir D --run compare --strengths 2 --n_iter 300",
                 ["", "MSE in [0,1]", "PSNR", "SSIM", "seconds a face"], rows)  # fmt: skip


def vectors(bench):
    """The document's questions about the GAN's vectors and the VAE's: each face changed to what it is not."""
    out = bench.call("face_math/gan", f"--run compare --count {bench.many(500)} --strengths 2 --n_iter 1", "vectors")
    columns = []
    for method in ("gan_encoder_and_search", "vae"):
        edited, pictures, ways = (bench.judge(out / method, out / method / f"{name}.tsv")
                                  for name in ("edits", "reconstructions", "interpolations"))  # fmt: skip
        cells = {f"{change} (others)": f"{found['changed']:.2f} ({found['others_changed']:.2f}), {found['n']} faces"
                 for change, found in edited.get("edits", {}).items()}  # fmt: skip
        same, way = pictures.get("identity"), ways.get("paths")
        cells["reconstructions: the same person (dlib)"] = f"{same['same_person']:.1%}" if same else "not measured"
        cells["reconstructions: KID-EffNet x 1000"] = kid(pictures)
        cells["ways from face to face: length over distance"] = (
            f"{way['length_over_distance']:.2f}" if way else "not measured")  # fmt: skip
        columns.append(cells)
    rows = [[name, *(cells.get(name, "") for cells in columns)] for name in columns[0] | columns[1]]
    return Table("face_math: vectors of the GAN and of the VAE, 500 test faces",
                 "python face_math/main.py --dataset_dir D --run compare --count 500 --strengths 2 --n_iter 1, "
                 "then benchmarks/quality.py --manifest", ["", "GAN, encoder and search", "VAE"], rows)  # fmt: skip


def filled(bench):
    flags = [*bench.flags("face_math/gan"), f"--count={bench.many(500)}"]
    out = bench.out / "face_math/gan/holes"
    table, rows = finish(holes.main, [*flags, f"--out_dir={out}", "--overwrite"]), []
    for name, decibels in table:
        folder = out / name.replace(", ", "_").replace(" ", "_").lower()
        judged = name in ("linear prediction", "GAN, blended")
        seen = kid(bench.judge(folder, folder / "manifest.tsv")) if judged else ""
        rows.append([name, f"{decibels:.2f}", seen])
    return Table("face_math: a hole of 32 x 32 in the middle of 500 test faces",
                 "python benchmarks/holes.py --dataset_dir D --count 500, then benchmarks/quality.py",
                 ["filled by", "dB in the hole", "KID-EffNet x 1000"], rows)  # fmt: skip


def requests(bench):
    out = bench.call("facegen_attr/dcgan2", f"--run generate --count {bench.many(640)}", "requests")
    numbers = bench.judge(out, out / "manifest.tsv")
    rates = {name: found["rate"] for name, found in numbers["requests"].items()}
    rows = [[name, f"{rate:.3f}", f"{numbers['judge'].get(name, float('nan')):.3f}"] for name, rate in rates.items()]
    rows.append(["mean", f"{np.nanmean(list(rates.values())):.3f}", ""])
    return Table("facegen_attr: what was asked for, as the judge reads it (0.5 is ignoring)",
                 "python facegen_attr/main.py --dataset_dir D --run generate --model dcgan2 --count 640, then "
                 "benchmarks/quality.py --manifest",
                 ["attribute", "rate", "the judge on real faces"], rows)  # fmt: skip


def changed(bench):
    table = finish(edits.main, [*bench.flags("facegen_attr/dcgan5"), f"--cache_dir={bench.cache}"])
    rows = [[change, str(count), f"{rate:.3f}", f"{anew:.3f}"] for change, count, rate, anew in table]
    rows.append(["mean", "", *(f"{sum(row[i] for row in table) / len(table):.3f}" for i in (2, 3))])
    return Table("facegen_attr: the editor, attribute by attribute", "python benchmarks/edits.py --dataset_dir D",
                 ["change", "faces", "changed as asked", "others read anew"], rows)  # fmt: skip


def kept(bench):
    out = bench.call("facegen_attr/dcgan5", f"--run generate --count {bench.many(400)}", "edited")
    numbers = bench.judge(out, out / "manifest.tsv")
    found = numbers.get("identity")
    row = [f"{found['distance']:.3f}", f"{found['same_person']:.1%}"] if found else ["not measured"] * 2
    return Table("facegen_attr: the editor, the person kept (dlib)",
                 "python facegen_attr/main.py --dataset_dir D --run generate --model dcgan5 --count 400, then "
                 "benchmarks/quality.py --manifest", ["distance", "the same person", "KID-EffNet x 1000"],
                 [[*row, kid(numbers)]])  # fmt: skip


def made_over(bench, mode):
    file, out = bench.model(f"deep_makeover/{mode}"), bench.out / "deep_makeover" / mode
    out.mkdir(parents=True, exist_ok=True)
    line = dict(dataset_dir=bench.data, train_mode=mode, model_path=file, out_dir=out, cache_dir=bench.cache)
    line |= dict(json=out / "numbers.json")
    finish(makeover.main, [f"--{name}={value}" for name, value in line.items()])
    numbers, rows = json.loads((out / "numbers.json").read_text()), []
    drawn = "the same, `--strength 1 --face_strength 1`"
    labels = dict(source="the picture itself", made="made over", drawn=drawn, target="a random target face")
    for kind, label in labels.items():
        row = numbers[kind]
        same = makeover.show(row["same_person"], row["n"]) if "same_person" in row else "not measured"
        read = " / ".join(makeover.show(rate, row["n"]).strip() for rate in row["read"].values())
        near = f"{row['kid']:.1f} +- {row['kid_std']:.1f}" if "kid" in row else "not measured"
        if kind == "target" and "kid_floor" in numbers:
            near = f"{numbers['kid_floor']:.1f} (two halves of them)"
        rows.append([label, read, same, near, f"{row['others']:.1%}"])
    decibels = numbers["test"]["psnr_of_target_faces"]
    rows.append(["target faces, made over", f"kept at {decibels:.1f} dB", "", "", ""])
    return Table(f"deep_makeover: {mode}, {numbers['source']['n']} test faces",
                 f"python benchmarks/makeover.py --dataset_dir D --train_mode {mode}",
                 ["", "read as the target, by " + " / ".join(numbers["readers"]), "the same person",
                  "KID-EffNet x 1000 to the target", "others read anew"], rows)  # fmt: skip


def recovered(bench):
    line = f"--run recover --count {bench.many(64, 4)} --n_iter {bench.many(100, 2)}"
    out = bench.call(bench.dapgan(), line, "recover")
    rows = [[row["method"], row["mse"], row["psnr"], row["ssim"], row["seconds_per_picture"]]
            for row in rows_of(out / "table.tsv")]  # fmt: skip
    return Table("dapgan: latents of the first 64 test faces", "python dapgan/main.py --dataset_dir D --run recover",
                 ["", "MSE in [0,1]", "PSNR", "SSIM", "seconds a face"], rows)  # fmt: skip


def codes(bench):
    """What each number of the code means: drawn faces where it is -1 and where it is 1, all else held."""
    out = bench.call(bench.dapgan(), f"--run vary --count {bench.many(200, 4)} --points 2", "vary")
    read, rows = quality.load_reader(bench.data, bench.cache), []
    for folder in sorted(found for found in out.glob("code_*") if found.is_dir()):
        files = sorted(folder.glob("*.png"))
        ends = [quality.read_pictures(files[i::2]) for i in (0, 1)]
        before, after = (yaw(SimpleNamespace(images=x, landmarks=None), np.arange(len(x))) for x in ends)
        turned = (after - before)[(after - before).isfinite()]
        right = (turned > 0).float().mean().item()
        shares = torch.stack([read(x).float().mean(0) for x in ends])
        most = (shares[1] - shares[0]).abs().argsort(descending=True)[:4].tolist()
        words = ", ".join(f"{quality.ATTRIBUTES[i]} {shares[0, i]:.0%} to {shares[1, i]:.0%}" for i in most)
        rows.append([folder.name, f"{turned.mean():+.2f} ({turned.std():.2f})", f"{max(right, 1 - right):.0%}", words])
    return Table("dapgan: what the code means, 200 drawn faces, from -1 to 1",
                 "python dapgan/main.py --run vary --count 200 --points 2, then MTCNN's landmarks and the judge",
                 ["", "heads turned by (spread), in distances of the eyes", "to the same side",
                  "what the judge reads, most changed of 40"], rows)  # fmt: skip


def people(bench):
    line = [*bench.flags(bench.dapgan()), f"--count={bench.many(20, 4)}"]
    line += ["--min_identity=0", "--min_quality=0", "--least=2"] if bench.quick else []
    columns = ("distance", "same_person", "strangers", "features", "pixels")
    rows = []
    for arm, found in finish(person.main, line).items():
        rows.append([arm, *(f"{sum(row[name] for row in found) / len(found):.3f}" for name in columns)])
    return Table("dapgan: few pictures of one person, varied into 20", "python benchmarks/person.py --dataset_dir D",
                 ["pictures", *(name.replace("_", " ") for name in columns)], rows)  # fmt: skip


def classifiers(bench):
    line = "--run evaluate --attributes Smiling --few 10 --seeds 20"
    quick = "--run evaluate --attributes Smiling --few 2 --seeds 2"
    out, rows = bench.call(bench.dapgan(), quick if bench.quick else line, "evaluate"), []
    for row in rows_of(out / "table.tsv"):
        numbers = [f"{100 * float(row[a]):.1f} +- {100 * float(row[b]):.1f}" if row[a] else ""
                   for a, b in (("accuracy", "half"), ("gain", "gain_half"))]  # fmt: skip
        rows.append([row["arm"], *numbers, row["helps"], f"{float(row['pairs']):.0%}"])
    return Table("dapgan: does it help? Smiling, ten faces of each kind",
                 f"python dapgan/main.py --dataset_dir D {line}",
                 ["arm", "accuracy", "gain over classical", "helps", "pairs taken"], rows)  # fmt: skip


def digits(bench):
    out = bench.call("dapgan/digits", "--run purity --data digits --model infogan", "purity")
    table = [[int(number) for number in list(row.values())[1:]] for row in rows_of(out / "purity.tsv")]
    right, total = sum(max(row[1:]) for row in table), sum(sum(row[1:]) for row in table)
    rows = [[f"{right / total:.1%}", str(len({row[0] for row in table})), str(total)]]
    return Table("dapgan: digits by category", "python dapgan/main.py --data digits --model infogan --run purity",
                 ["purity", "digits that have a category", "pictures"], rows)  # fmt: skip


TABLES = dict(files=shipped, hyperencoder=reconstruction, hyperencoder_anomalies=anomalies, drawn=drawn,
              face_math=projection, face_math_vectors=vectors, face_math_holes=filled, facegen_attr=requests,
              facegen_attr_edits=changed, facegen_attr_identity=kept,
              deep_makeover_mtf=functools.partial(made_over, mode="mtf"),
              deep_makeover_ftm=functools.partial(made_over, mode="ftm"), dapgan=recovered, dapgan_code=codes,
              dapgan_person=people, dapgan_evaluate=classifiers, dapgan_digits=digits)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = lambda message: sys.exit(fail(message))
    parser.add_argument("--dataset_dir", type=path, required=True, help="CelebA, or drawn faces")
    parser.add_argument("--out_dir", type=path, default="out_results", help="for all that is made (out_results)")
    parser.add_argument("--cache_dir", type=path, default=str(ROOT / "benchmarks/cache"), help="keeps the judges")
    parser.add_argument("--write", type=path, help="a file with the two marks, such as RESULTS.md")
    parser.add_argument("--quick", action="store_true", help="few pictures: whether it runs, not what it says")
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help=f"of {', '.join(TABLES)}")
    args = parser.parse_args(argv)
    if not Path(args.dataset_dir).exists():
        raise InputError(f"--dataset_dir {args.dataset_dir}: no such folder")
    if args.write and args.quick:
        raise InputError("--quick says whether it runs, and no numbers that are worth writing: leave --write away")
    if args.write and not all(mark in Path(args.write).read_text(encoding="utf-8") for mark in (BEGIN, END)):
        raise InputError(f"--write {args.write}: expected the marks {BEGIN} and {END} in it")
    return args


def models_are():
    """A number that changes with any of the shipped models."""
    return functools.reduce(lambda crc, file: zlib.crc32(file.read_bytes(), crc), sorted(MODELS.glob("*/*.pt")), 0)


def as_text(tables):
    """The tables as Markdown; of what could not be measured, why."""
    parts = []
    for name, table in tables.items():
        if isinstance(table, InputError):
            parts.append(f"{name.replace('_', ' ')}: not measured, {table}")
            continue
        lines = [f"**{table.title}** (`{table.command}`)".replace("(``", "(`").replace("``)", "`)"), ""]
        if "`" in table.command:
            lines[0] = f"**{table.title}** ({table.command})"
        lines += ["| " + " | ".join(row) + " |" for row in [table.head, ["---"] * len(table.head), *table.rows]]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def main(argv=None):
    """Measure, write the tables; returns them, name -> Table or the InputError that says why there is none."""
    args = parse_args(argv)
    bench, tables = Bench(args), {}
    bench.out.mkdir(parents=True, exist_ok=True)
    bench.cache.mkdir(parents=True, exist_ok=True)
    log = bench.out / ("quick.json" if args.quick else "measured.json")  # of the last run, and of this as far as it is
    kept = json.loads(log.read_text(encoding="utf-8")) if log.exists() else {}
    of = [models_are(), str(Path(args.dataset_dir).resolve())]
    measured = kept["tables"] if kept.get("of") == of else {}
    for name, measure in TABLES.items():
        if name.startswith(tuple(args.only)):
            try:
                tables[name] = measure(bench)
                measured[name] = tables[name]._asdict()
                log.write_text(json.dumps(dict(of=of, tables=measured), indent=1), encoding="utf-8")
            except InputError as error:
                tables[name] = error
                print(f"{name}: not measured, {error}")
        elif name in measured:
            tables[name] = Table(**measured[name])
    text = as_text(tables)
    (bench.out / "tables.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")
    if args.write:
        page = Path(args.write)
        before, rest = page.read_text(encoding="utf-8").split(BEGIN)
        page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    print(bench.out / "tables.md")
    return tables


if __name__ == "__main__":
    run_script(main)
