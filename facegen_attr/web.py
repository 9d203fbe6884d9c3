"""The page of --run refine --web: a slider for each attribute, served to this machine alone.

It needs gradio (pip install -r requirements-web.txt). Nothing is loaded from or sent to any other machine.
"""

import os
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the import
import gradio as gr

from common.photos import InputError
from facegen_attr.refine import MOST, describe

SHOWN = 320  # pixels


def enlarged(pixels):
    """(H, W, 3) uint8, enlarged for the eye."""
    height, width = pixels.shape[:2]
    return np.asarray(Image.fromarray(pixels).resize((round(SHOWN * width / height), SHOWN), Image.Resampling.BICUBIC))


def view(session, notes=None):
    """What the page shows of a session: the face, or the whole photo as it is written, at full size; all its steps, a
    text, and the degrees for the sliders."""
    steps = [(enlarged(session.pixels(step)), f"{number}") for number, step in enumerate(session.steps)]
    notes = session.notes if notes is None else notes
    text = "\n\n".join([*notes, describe(session), f"{session.written} pictures in {session.folder}"])
    shown = str(session.folder / "photos" / session.steps[-1][3]) if session.spot else enlarged(session.pixels())
    return [session, shown, steps, text, *session.degrees.values()]


def build(begin, attributes, seed, with_photo):
    """The page. begin(seed, photo=None) opens a session on a new face or on a photo (a path)."""
    with gr.Blocks(title="facegen_attr", analytics_enabled=False) as page:
        state, number = gr.State(), gr.State(seed)
        gr.Markdown("### A face, refined\n-1 is not there, 1 is there, beyond is more than the network has seen.")
        with gr.Row():
            with gr.Column():
                picture = gr.Image(label="face", interactive=False, elem_id="face")
                text = gr.Markdown(elem_id="text")
                # A file as it is, which the command line's reader reads: gr.Image would decode it, and fail, by itself.
                photo = gr.File(label="or a photo of your own", type="filepath", visible=with_photo, elem_id="photo")
            with gr.Column():
                slider = partial(gr.Slider, -MOST, MOST, 0, step=0.1)
                sliders = [slider(label=name, elem_id=f"slider_{name}") for name in attributes]
                with gr.Row():
                    apply = gr.Button("Refine", variant="primary", elem_id="refine")
                    undo = gr.Button("Undo", elem_id="undo")
                    new = gr.Button("New face", elem_id="new")
        steps = gr.Gallery(label="steps", columns=8, height="auto", elem_id="steps")
        shown = [state, picture, steps, text, *sliders]

        def refine(session, *degrees):
            asked = dict(zip(session.attributes, map(float, degrees), strict=True))
            changed = {name: asked[name] for name, now in session.degrees.items() if abs(now - asked[name]) > 1e-6}
            return view(session, session.change(changed) if changed else [])

        def back(session):
            try:
                session.undo()
            except InputError as error:
                return view(session, [str(error)])
            return view(session)

        def another(number):
            return [number + 1, *view(begin(number + 1))]

        def from_photo(session, path):
            try:
                return view(begin(seed, path) if path else session)
            except InputError as error:
                return view(session, [str(error).replace(str(path), Path(path).name)])
            except OSError as error:  # a full disk, an upload that has gone
                return view(session, [f"{Path(path).name} cannot be used: {error.strerror}"])

        page.load(lambda: view(begin(seed)), None, shown)
        gr.on([apply.click, *(slider.release for slider in sliders)], refine, [state, *sliders], shown)
        undo.click(back, state, shown)
        new.click(another, number, [number, *shown])
        photo.upload(from_photo, [state, photo], shown)
    return page


def serve(begin, attributes, seed, with_photo, port, sample_dir):
    """Serve the page on this machine alone until Ctrl-C; sample_dir: what it shows. InputError: the port is taken."""
    page = build(begin, attributes, seed, with_photo)
    theme = gr.themes.Base(font=["sans-serif"], font_mono=["monospace"])  # no fonts from elsewhere
    try:
        launch = partial(page.launch, server_name="127.0.0.1", share=False, quiet=True, theme=theme)
        launch = partial(launch, allowed_paths=[os.path.abspath(sample_dir)])
        launch(server_port=port or None, prevent_thread_lock=True)
    except OSError as error:
        raise InputError(f"the page cannot be served at port {port} ({error}): try --port 0") from None
    print(f"open {page.local_url} in a browser; Ctrl-C ends", flush=True)
    page.block_thread()
