"""The five folders are parallel on purpose: equal copies, flags, order, imports one way, README headings."""

import argparse
import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALL = ("hyperencoder", "dapgan", "facegen_attr", "deep_makeover", "face_math")
PROJECTS = [name for name in ALL if (ROOT / name / "plumbing.py").exists()]
COPIES = {"plumbing.py": PROJECTS, "gan.py": [name for name in PROJECTS if name != "hyperencoder"]}
SECTIONS = ["Flags", "Training"]
HEADINGS = ["What it is", "Run it", "How it works", "What is logged", "Results", "Differences from the document"]
GROUPS = ["What to do", "Model", "Training", "Machine", "Files"]
SHARED_FLAGS = {
    "What to do": ["run"],
    "Training": ["epoch", "steps", "train_size", "batch_size", "learning_rate", "beta1", "recipe", "seed"],
    "Machine": ["device", "precision", "workers"],
    "Files": ["dataset_dir", "dataset_name", "record_dir", "checkpoint_dir", "model_path", "sample_dir", "restart",
              "log_every", "sample_every", "save_every"],
}  # fmt: skip
# From the top of a folder to its bottom; a file imports what stands below it. Verbs are all other files.
ORDER = {"main": 0, "loading": 2, "plumbing": 3, "gan": 3, "model": 3}
COMMON = {"synthetic": 0, "crop": 0, "celeba": 1, "mtcnn": 2, "photos": 3}


def flags(project):
    """Name -> (group, help without the default in brackets) of a project's flags, in their order."""
    script, found = importlib.import_module(f"{project}.main"), {}

    class Seen(Exception):
        pass

    def look(parser, *_, **__):
        for group in parser._action_groups:
            for action in group._group_actions:
                if action.dest != "help":
                    found.setdefault(action.dest, (group.title, re.sub(r" \([^()]*\)", "", action.help or "")))
        raise Seen

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Seen):
        patch.setattr(argparse.ArgumentParser, "parse_known_args", look)
        patch.setattr(argparse.ArgumentParser, "parse_args", look)
        script.parse_args([])
    return found


def imports(path):
    """The modules of this repository that a file imports at its top, as folder.module; those in functions aside."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module in ("common", *ALL):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            elif node.module.split(".")[0] in ("common", *ALL):
                yield node.module


@pytest.mark.parametrize(("file", "project"), [(file, name) for file, names in COPIES.items() for name in names])
def test_copies_are_equal_byte_for_byte(file, project):
    first = ROOT / COPIES[file][0] / file
    assert (ROOT / project / file).read_bytes() == first.read_bytes(), f"make copies FROM={project}, or the other way"


@pytest.mark.parametrize("project", PROJECTS)
def test_imports_go_one_way(project):
    for path in (ROOT / project).glob("*.py"):
        rank = ORDER.get(path.stem, 1)
        for module in imports(path):
            folder, name = module.split(".")[:2]
            assert folder in ("common", project), f"{path} imports {module}: projects share common/ alone"
            if folder == project:
                below = ORDER.get(name, 1)
                assert below > rank or below == rank == 1, f"{path.name} of {project} imports {module}"
            if path.name in COPIES:
                assert folder == "common", f"{path} imports {module}: a copy imports nothing of its project"


def test_imports_of_common_go_one_way():
    for path in (ROOT / "common").glob("*.py"):
        for module in imports(path):
            folder, name = module.split(".")
            assert folder == "common" and COMMON[name] > COMMON[path.stem], f"{path.name} imports {module}"


@pytest.mark.parametrize("project", PROJECTS)
def test_verb_files_make_no_circle(project):
    """Files of verbs may use each other, but not in a circle."""
    uses = {
        path.stem: {module.split(".")[1] for module in imports(path) if module.startswith(f"{project}.")}
        for path in (ROOT / project).glob("*.py")
    }
    while leaves := [name for name, used in uses.items() if not used & set(uses)]:
        for name in leaves:
            del uses[name]
    assert not uses, f"{project}: a circle among {sorted(uses)}"


@pytest.mark.parametrize("project", PROJECTS)
def test_main_is_read_in_one_sitting(project):
    text = (ROOT / project / "main.py").read_text(encoding="utf-8")
    assert text.count("\n") <= 360
    assert re.findall(r"^# -{20,}\n# (\w[\w ]*)", text, re.M) == SECTIONS
    first = "import signal\n\nsignal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports"
    assert first in text[: text.index("import torch")], "Ctrl-C during the imports leaves no traceback"
    for path in (ROOT / project).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                most = 110 if node.name.startswith("train") else 80
                assert node.end_lineno - node.lineno < most, f"{path.name}: {node.name} is longer than a screen"


@pytest.mark.parametrize("project", PROJECTS)
def test_files_are_not_named_like_modules_that_scripts_import(project):
    """The script's folder comes first on sys.path: a chart.py is fine, a random.py would replace Python's."""
    for path in (ROOT / project).glob("*.py"):
        assert path.stem not in sys.stdlib_module_names, path
        assert path.stem not in ("torch", "numpy", "cv2", "PIL", "tqdm", "mtcnn", "common"), path


@pytest.mark.parametrize("project", PROJECTS)
def test_shared_flags_have_the_same_names_order_groups_and_help(project):
    mine, first = flags(project), flags(PROJECTS[0])
    assert list(dict.fromkeys(group for group, _ in mine.values())) == GROUPS
    for group, names in SHARED_FLAGS.items():
        assert [name for name, (of, _) in mine.items() if of == group and name in names] == names
        if group in ("Machine", "Files"):
            assert all(mine[name] == first[name] for name in names), group
    assert all(text for _, text in mine.values()), "every flag has help"


@pytest.mark.parametrize("project", PROJECTS)
def test_every_flag_is_used(project):
    """A flag that is declared and never read is a lie."""
    files = [*(ROOT / project).glob("*.py"), ROOT / "common/celeba.py"]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    for name in flags(project):
        if name != "recipe":  # read while the flags are parsed
            assert re.search(rf"(args|flags|first)\.{name}\b|\"{name}\"", text), f"--{name} of {project} is never read"


@pytest.mark.parametrize("project", PROJECTS)
def test_readme_has_the_same_headings(project):
    text = (ROOT / project / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.M) == HEADINGS


@pytest.mark.parametrize("project", PROJECTS)
def test_torchrun_lines_do_not_lose_run_to_torchrun(project):
    """torchrun takes --run for an abbreviation of its own --run-path, unless a -- stands before the script."""
    text = "".join((ROOT / project / file).read_text(encoding="utf-8") for file in ("main.py", "README.md"))
    for line in re.findall(r".*torchrun --nproc.*", text):
        assert "--run" not in line or " -- " in line, line


HELP = """
import runpy, sys
there = list(sys.path)
for script in sys.argv[1:]:
    sys.argv, sys.path[:] = [script, "--help"], there  # each finds the repository by itself
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        assert not stop.code
    heavy = {"torchvision", "tensorboard", "pytorch_msssim", "tensorflow", "gradio", "sklearn"}
    print("heavy:", heavy & set(sys.modules), "behind", script)
"""


def test_help_needs_no_data_and_no_heavy_imports_beyond_torch(tmp_path):
    """--help works from any directory and shows the launch commands and every flag."""
    scripts = [str(ROOT / project / "main.py") for project in PROJECTS]
    process = subprocess.run([sys.executable, "-c", HELP, *scripts], cwd=tmp_path, text=True, capture_output=True)
    assert process.returncode == 0, process.stderr
    told = process.stdout
    for project, script in zip(PROJECTS, scripts, strict=True):
        text, behind, told = told.partition(f"heavy: set() behind {script}\n")
        assert behind and f"torchrun --nproc_per_node=8 {project}/main.py" in text, project
        for name in flags(project):
            assert f"--{name}" in text


def test_make_copies_refuses_where_two_were_changed(tmp_path):
    """`make copies` writes one project's copy over the others', but never over another change."""
    names = ["hyperencoder", "face_math"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "plumbing.py").write_text("old\n")
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text(encoding="utf-8"))

    def call(*command):
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    assert call("git", "init", "-q").returncode == 0
    assert call("git", "add", ".").returncode == call("git", *who, "commit", "-qm", "a").returncode == 0
    (tmp_path / "face_math/plumbing.py").write_text("new\n")
    assert call("make", "copies", "FROM=face_math").returncode == 0
    assert (tmp_path / "hyperencoder/plumbing.py").read_text() == "new\n"
    (tmp_path / "hyperencoder/plumbing.py").write_text("newer\n")
    process = call("make", "copies", "FROM=face_math")
    assert process.returncode == 2 and "hyperencoder/plumbing.py was changed too" in process.stderr
    assert (tmp_path / "hyperencoder/plumbing.py").read_text() == "newer\n"
