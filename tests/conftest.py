"""What several tests share: drawn faces, and a project's command line run in its own process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.synthetic import write


@pytest.fixture(autouse=True)
def give_back_disk(request):
    """Of what a test has written files of over a megabyte go: all tests together would need 3 GB at once."""
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    for file in folder.rglob("*") if folder else ():
        if file.is_file() and not file.is_symlink() and file.stat().st_size > 1e6:
            file.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    """A drawn CelebA of 96 pictures of 8 people; tests that change a data set take a copy."""
    path = tmp_path_factory.mktemp("data") / "faces"
    write(path, count=96, seed=0, identities=8)
    return path


@pytest.fixture(scope="session")
def crowd(tmp_path_factory):
    """A drawn CelebA of 240 pictures of 60 people: men and women in every part of the partition."""
    path = tmp_path_factory.mktemp("crowd") / "crowd"
    write(path, count=240, seed=0, identities=60)
    return path


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """run("hyperencoder/main.py", "--flag", ...) in its own process on the CPU, from a folder elsewhere; returns it."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def run(script, *flags, **environment):
        command = [sys.executable, str(ROOT / script), *map(str, flags)]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment}
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=elsewhere, timeout=240)

    return run


@pytest.fixture
def home(trained, tmp_path):
    """A folder for one test's runs, with the packed faces in it of what the file's own `trained` has trained."""
    shutil.copytree(trained[0] / "records", tmp_path / "records", copy_function=os.link)
    return tmp_path


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of all that `trained` has trained, to write into."""
    shutil.copytree(trained[0], tmp_path / "copy")
    return tmp_path / "copy"
