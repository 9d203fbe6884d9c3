"""The page of facegen_attr's --run refine --web, in a real browser: make test-web (make test leaves it out).

CHROMIUM names the browser, by default Debian's /usr/bin/chromium.
"""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from PIL import Image
from playwright.sync_api import expect, sync_playwright

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
SMALL = ["--image_size", "16", "--attributes", "2", "--batch_size", "8", "--device", "cpu", "--workers", "0"]


@pytest.fixture(scope="module")
def folder(faces, run, tmp_path_factory):
    """A generator, an editor and a predictor, hardly trained."""
    folder = tmp_path_factory.mktemp("web")
    names = ("record_dir", "checkpoint_dir", "model_path", "sample_dir")
    places = [part for name in names for part in (f"--{name}", folder / name)]
    for flags in (["--model", "dcgan2"], ["--model", "dcgan5"], ["--run", "train_predictor"]):
        recipe = [] if "--run" in flags else ["--recipe", "best"]
        process = run("facegen_attr/main.py", "--dataset_dir", faces, "--steps", 3, *SMALL, *places, *flags, *recipe)
        assert process.returncode == 0, process.stderr
    return folder


@pytest.fixture
def open_page(folder):
    """open_page(*flags) serves the page in a process of its own and opens it; what leaves the machine is refused."""
    servers, strangers = [], []

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)

        def guard(route):
            local = re.match(r"(https?|wss?)://127\.0\.0\.1[:/]|data:|blob:", route.request.url)
            if not local:
                strangers.append(route.request.url)
            route.continue_() if local else route.abort()

        def open_page(*flags):
            names = ["--dataset_name", "faces", "--recipe", "best", *SMALL]
            places = ["--model_path", folder / "model_path", "--sample_dir", folder / "sample_dir"]
            verb = ["--run", "refine", "--web", "--port", 0]
            command = [sys.executable, ROOT / "facegen_attr/main.py", *names, *places, *verb, *flags]
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
            pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            server = subprocess.Popen(list(map(str, command)), env=environment, **pipes)
            servers.append(server)
            seen = []
            for line in server.stdout:
                seen.append(line)
                if line.startswith("open http://127.0.0.1:"):
                    break
            else:
                raise AssertionError("".join(seen))
            page = browser.new_page()
            page.set_default_timeout(60_000)
            expect.set_options(timeout=60_000)
            page.route("**/*", guard)
            page.goto(line.split()[1])
            expect(page.locator("#text")).to_contain_text("Smiling=")
            return page

        yield open_page
        browser.close()
    for server in servers:
        server.kill()
        server.communicate()
    assert strangers == [], "the page asked other machines for something"


def source(page):
    return page.locator("#face img").first.get_attribute("src")


def sessions(folder):
    return sorted(folder.glob("sample_dir/*/refine_*"))


def test_a_face_from_noise_is_refined_and_undone(open_page, folder):
    page = open_page("--model", "dcgan2", "--request", "Smiling=0")
    (session,) = sessions(folder)
    expect(page.locator("#text")).to_contain_text("Smiling=-1")
    first, number = source(page), page.locator("#slider_Smiling input[type=number]")
    expect(number).to_have_value("-1")
    assert page.locator("input[type=range]").count() == 2, "a slider for each attribute"
    assert page.locator("#slider_Smiling input[type=range]").get_attribute("max") == "2"

    number.fill("1.5")
    number.press("Enter")
    page.locator("#refine").click()
    expect(page.locator("#text")).to_contain_text("Smiling=1.5")
    assert source(page) != first and (session / "step_001.png").exists()

    page.locator("#undo").click()
    expect(page.locator("#text")).to_contain_text("Smiling=-1")
    expect(number).to_have_value("-1")
    page.locator("#undo").click()
    expect(page.locator("#text")).to_contain_text("nothing to undo")
    assert (session / "step_001.png").exists(), "every step is kept"

    page.locator("#new").click()
    expect(page.locator("#text")).to_contain_text("refine_002")
    assert len(sessions(folder)) == 2


def test_a_photo_of_ones_own(open_page, folder, faces, tmp_path):
    page = open_page("--model", "dcgan5", "--first_model", folder / "model_path/faces_dcgan2_16.pt")
    before = len(sessions(folder))
    Image.new("RGB", (200, 200), "green").save(tmp_path / "green.png")
    page.locator("#photo input[type=file]").set_input_files(tmp_path / "green.png")
    expect(page.locator("#text")).to_contain_text("no usable face")
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    for name, sentence in (("bad.jpg", "not a picture"), (None, "no usable face")):
        page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.click()
        page.locator("#photo input[type=file]").set_input_files(tmp_path / (name or "green.png"))
        expect(page.locator("#text")).to_contain_text(sentence)
    page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.click()
    page.locator("#photo input[type=file]").set_input_files(next((faces / "img_align_celeba").iterdir()))
    expect(page.locator("#text")).not_to_contain_text("no usable face")
    assert len(sessions(folder)) == before + 1
    first = source(page)
    male = page.locator("#slider_Male input[type=number]")
    male.fill("-2" if float(male.input_value()) > 0 else "2")
    page.locator("#refine").click()
    expect(page.locator("#text")).to_contain_text("Male=-2" if male.input_value() == "-2" else "Male=2")
    assert source(page) != first
