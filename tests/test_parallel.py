"""The five main.py are parallel on purpose: the same boilerplate byte for byte, flags, sections and README headings."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECTS = [name for name in ("hyperencoder", "dapgan", "facegen_attr", "deep_makeover", "face_math")
            if (ROOT / name).exists()]  # fmt: skip
BOILERPLATE = ["boolean", "setup", "average_gradients", "update_ema", "listen_for_stop", "save_checkpoint",
               "read_checkpoint", "load_checkpoint", "save_sheet", "new_folder", "main", "fail"]  # fmt: skip
ALSO_ALIKE = ["in_chunks", "r1_penalty", "psnr", "fill", "new_numbered", "output_folder", "save_pictures",
              "write_table"]  # of dapgan and face_math, new_numbered of facegen_attr too; others may have their own
GAN_BOILERPLATE = ["diversity", "sliced_wasserstein", "diff_augment"]  # in the projects that train a GAN
SECTIONS = ["Flags", "Boilerplate", "Training", "Using the model"]
HEADINGS = ["What it is", "Run it", "How it works", "What is logged", "Results", "Differences from the document"]
GROUPS = ["What to do", "Model", "Training", "Machine", "Files"]
SHARED_FLAGS = ["run", "epoch", "steps", "train_size", "batch_size", "learning_rate", "beta1", "recipe", "seed",
                "device", "precision", "workers", "dataset_dir", "record_dir", "checkpoint_dir", "model_path",
                "sample_dir", "log_every", "sample_every", "save_every"]  # fmt: skip
# A default belongs to a project's document; what a flag means is the same everywhere.
SAME_HELP = ["epoch", "steps", "train_size", "batch_size", "seed", "device", "precision", "workers", "dataset_dir",
             "checkpoint_dir", "model_path", "sample_dir", "log_every", "sample_every", "save_every"]  # fmt: skip


def source(project):
    return (ROOT / project / "main.py").read_text()


def functions(project):
    """Name -> source of the top-level functions of a project's main.py, decorators and all, in their order."""
    text = source(project)
    lines = text.splitlines()
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found[node.name] = "\n".join(lines[first - 1 : node.end_lineno])
    return found


def flags(project):
    """Name -> (group, help without the default in brackets) of a project's flags, in their order, from its source."""
    found, groups = {}, {}
    for node in ast.walk(next(n for n in ast.parse(source(project)).body if getattr(n, "name", "") == "parse_args")):
        if not isinstance(node, (ast.Assign, ast.Call)):
            continue
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            if getattr(node.value.func, "attr", "") == "add_argument_group":
                groups[node.targets[0].id] = node.value.args[0].value
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            text = next((ast.unparse(k.value) for k in node.keywords if k.arg == "help"), "")
            name = node.args[0].value.removeprefix("--")
            found[name] = (node.lineno, groups.get(node.func.value.id), re.sub(r" \([^()]*\)", "", text))
    return {name: rest for name, (_, *rest) in sorted(found.items(), key=lambda item: item[1][0])}


@pytest.mark.parametrize("project", PROJECTS)
def test_boilerplate_is_the_same_byte_for_byte(project):
    mine, first = functions(project), functions(PROJECTS[0])
    assert [name for name in mine if name in BOILERPLATE] == BOILERPLATE
    for name in BOILERPLATE:
        assert mine[name] == first[name], f"{name} differs between {project} and {PROJECTS[0]}: change one, change all"


def test_gans_share_their_boilerplate_byte_for_byte():
    gans = {project: functions(project) for project in PROJECTS if "diversity" in functions(project)}
    for project, mine in gans.items():
        assert [name for name in mine if name in GAN_BOILERPLATE] == GAN_BOILERPLATE, project
        for name in GAN_BOILERPLATE:
            assert mine[name] == next(iter(gans.values()))[name], f"{name} of {project}: change one, change all"


@pytest.mark.parametrize("name", ALSO_ALIKE)
def test_helpers_of_the_verbs_are_the_same_byte_for_byte(name):
    alike = ["dapgan", "face_math", *(["facegen_attr"] if name == "new_numbered" else [])]
    assert len({functions(project)[name] for project in alike}) == 1, f"{name}: change one, change all of {alike}"


@pytest.mark.parametrize("project", PROJECTS)
def test_shared_flags_have_the_same_names_order_groups_and_help(project):
    mine, first = flags(project), flags(PROJECTS[0])
    assert [name for name in mine if name in SHARED_FLAGS] == SHARED_FLAGS
    assert list(dict.fromkeys(group for group, _ in mine.values())) == GROUPS
    for name in SHARED_FLAGS:
        assert mine[name][0] == first[name][0], name
    for name in SAME_HELP:
        assert mine[name] == first[name], name
    assert all(text.strip("'\"") for _, text in mine.values()), "every flag has help"


@pytest.mark.parametrize("project", PROJECTS)
def test_every_flag_is_used(project):
    """A flag that is declared and never read is a lie."""
    text = "".join(path.read_text() for path in (ROOT / project).glob("*.py"))
    for name in flags(project):
        if name not in ("no-train", "recipe"):  # the other name of --train; read while the flags are parsed
            assert re.search(rf"args\.{name}\b|\"{name}\"", text), f"--{name} of {project} is never read"


@pytest.mark.parametrize("project", PROJECTS)
def test_flags_that_may_change_exist(project):
    (may_change,) = re.findall(r"^MAY_CHANGE = (\{.*?\})", source(project), re.S | re.M)
    assert ast.literal_eval(may_change) <= set(flags(project)), "MAY_CHANGE names a flag that is not there"


@pytest.mark.parametrize("project", PROJECTS)
def test_sections_come_in_the_same_order(project):
    banners = re.findall(r"^# -{20,}\n# (\w[\w ]*)", source(project), re.M)
    assert [banner.split(":")[0] for banner in banners if banner != "Losses"] == SECTIONS


@pytest.mark.parametrize("project", PROJECTS)
def test_readme_has_the_same_headings(project):
    assert re.findall(r"^## (.*)$", (ROOT / project / "README.md").read_text(), re.M) == HEADINGS


@pytest.mark.parametrize("project", PROJECTS)
def test_torchrun_lines_do_not_lose_run_to_torchrun(project):
    """torchrun takes --run for an abbreviation of its own --run-path, unless a -- stands before the script."""
    text = source(project) + (ROOT / project / "README.md").read_text()
    for line in re.findall(r".*torchrun --nproc.*", text):
        assert "--run" not in line or " -- " in line, line


@pytest.mark.parametrize("project", PROJECTS)
def test_help_needs_no_data_and_no_heavy_imports_beyond_torch(project, tmp_path):
    """--help works from any directory and shows the launch commands and every flag."""
    process = subprocess.run([sys.executable, ROOT / project / "main.py", "--help"], cwd=tmp_path, text=True,
                             capture_output=True)  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert f"torchrun --nproc_per_node=8 {project}/main.py" in process.stdout
    for name in flags(project):
        assert f"--{name}" in process.stdout
