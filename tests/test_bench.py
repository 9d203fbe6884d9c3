"""benchmarks/bench.py on few small pictures: every row is there, and table and JSON say the same."""

import contextlib
import functools
import io
import json
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import bench
import data
import latency
import scale
import speed

SMALL = "--count 40 --full 200 --sizes 32,128 --seconds 0.1 --cores 1 --device cpu".split()
ROWS = {
    "loading": ["loading 64 x 64 from 178 x 218 JPEGs, warm records"],
    "detection": [f"detection, {where}" for where in ("in one call", "one by one", "in a photo of 1920 x 1080")],
    "makeover": ["makeover of an aligned picture, --recipe best"],
    "generated": ["one generated face, 64 x 64, --recipe best, 95%"],
    "index": ["index of 200 pictures", "memory that it takes"],
    "memory": ["memory, batches drawn from 200 records", "with the pages of the records that are in use"],
    "sizes": [f"{name} of 32 / 128 pictures" for name in ("index", "packing", "projection")],
}


def test_every_row_is_there(tmp_path, monkeypatch, capsys):
    tiny = "face_math --run train --image_size 32 --width 8 --batch_size 4"
    monkeypatch.setattr(speed, "ROWS", {"a tiny training (4)": tiny})
    monkeypatch.setattr(speed, "example", functools.partial(speed.example, batch=4, width=8))
    monkeypatch.setattr(bench, "write", lambda folder, count, workers: write(folder, count))
    child = data.child

    def here(*flags):
        """Memory is measured in this process: two starts fewer."""
        if flags[0] != "--memory":
            return child(*flags)
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            data.main(list(map(str, flags)))
        return json.loads(told.getvalue())

    monkeypatch.setattr(data, "child", here)
    groups = ["--rows", ",".join(["training", *ROWS])]
    bench.main([*SMALL, *groups, "--out_dir", str(tmp_path), "--peer_python", str(tmp_path / "none")])
    content = json.loads((tmp_path / "bench.json").read_text())
    facts = content["machine"]
    assert facts["gpu"] is None and facts["cores"] == 1 and facts["torch"] and facts["avx512_bf16"] in (True, False)
    training = content["training"]["a tiny training (4)"]
    assert training["rate"] > 0 and training["example"] > 0
    found = {row["row"]: row for row in content["rows"]}
    wanted = [name for names in ROWS.values() for name in names]
    assert set(wanted) < set(found) and len(found) == len(wanted) + 1
    assert any(name.startswith("first pass over 128") for name in found)
    assert all(row["ratio"] > 0 for row in content["rows"] if row["theirs"])
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out and "needs one" in table
    assert all(f"| {name} |" in table for name in [*found, "a tiny training (4)", speed.EXAMPLE])
    for name in ROWS["detection"]:  # TensorFlow is not beside this program
        assert "mtcnn (TensorFlow)" in found[name]["peer"] and "make peers" in found[name]["peer"]


def write(folder, count):
    from common.synthetic import write

    write(folder, count)


def test_rows_of_launches_and_searches(tmp_path, monkeypatch):
    """What they take minutes for is given: the losses of torchrun's ways, and what face_math prints."""
    given = {"one process": ([1.0, 2.0], 3.0), "two processes": ([1.0, 2.02], 2.0), "two nodes": ([1.0, 2.0], 1.5)}
    monkeypatch.setattr(scale, "launch", lambda name, nodes, args: given[name])
    two, nodes = scale.torchrun(None)
    assert "within 1.00%" in two["row"] and two["ratio"] == 1.5 and "efficiency 75%" in two["reach"]
    assert "within 0.00%" in nodes["row"] and nodes["ratio"] == 2 and nodes["ours"] == "0.67"

    seconds, told = {"best": 0.02, "document": 1.0}, []

    def project(main, flags):
        told.append(flags)
        way = flags[flags.index("--search") + 1] if "--search" in flags else "document"
        return f"4 faces, 9 steps, {seconds[way]:.3f} seconds a face, MSE 0.1 in [0, 1], 12.50 dB: folder\n"

    monkeypatch.setattr(latency, "quietly", project)
    monkeypatch.setattr(latency, "ROOT", tmp_path)  # where no model has come along
    args = bench.parse_args([*SMALL, "--dataset_dir", str(tmp_path), "--out_dir", str(tmp_path)])
    (row,) = latency.projection(args)
    assert row["ratio"] == pytest.approx(50) and row["theirs"] == "1.000 (12.50 dB)"
    assert [flags[1] for flags in told] == ["train", "train_encoder", "project", "project"]


def test_a_row_that_fails_keeps_the_others(tmp_path, monkeypatch, capsys):
    def broken(args):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(bench, "GROUPS", {"makeover": bench.GROUPS["makeover"], "index": broken})
    monkeypatch.setattr(bench, "write", lambda folder, count, workers: write(folder, count))
    with pytest.raises(SystemExit) as stop:
        bench.main([*SMALL, "--rows", "makeover,index", "--out_dir", str(tmp_path)])
    printed = capsys.readouterr().out
    assert stop.value.code == 1 and "failed: no such luck" in printed and "| makeover of" in printed
    with pytest.raises(bench.InputError):
        bench.parse_args(["--rows", "speed"])
