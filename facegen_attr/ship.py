"""--run ship: a trained model as a small file, which can come with the program or be given away."""

from facegen_attr.loading import find_own, predictor_file, read_model, run_name
from facegen_attr.model import Predictor
from facegen_attr.plumbing import (
    fill,
    output_folder,
    place,
    read_checkpoint,
    shown_part,
    trained_on,
    write_shipped,
)


def ship(args):
    """Write the model of the run that the flags name, MODEL.pt, and predictor.pt if there is one beside it.

    With the attributes of some training faces, so that a request of a few goes with what faces have together, and what
    --run tune has learned.
    """
    path, content = find_own(args)
    about, model = trained_on(args, content), read_model(path, content=content)
    part = shown_part(content, "generator", "ema")
    out = output_folder(args, place(args, "samples", run_name(args)))
    numbers = dict(known=model.known, requests=model.requests, means=model.means)
    write_shipped(out / f"{content['args']['model']}.pt", content, {"generator": content[part]}, about, **numbers)
    if (path := predictor_file(args)).exists():
        content = read_checkpoint(path)
        fill(Predictor(), content, "predictor", path)  # another's is not written
        write_shipped(out / "predictor.pt", content, {"predictor": content["predictor"]}, trained_on(args, content))
    else:
        print(f"no {path}, so none is written: without one, this model changes no photo")
