"""--run ship: a trained model as a small file, which can come with the program or be given away."""

from facegen_attr.asking import predictor_file
from facegen_attr.loading import run_name
from facegen_attr.plumbing import find_model, output_folder, place, read_checkpoint, trained_on, write_shipped


def ship(args):
    """Write the model of the run that the flags name, MODEL.pt, and predictor.pt if there is one beside it.

    With the attributes of some training faces, so that a request of a few goes with what faces have together.
    """
    about = trained_on(args)
    _, content = find_model(args, run_name(args))
    part = "ema" if "ema" in content and content["args"]["show_ema"] else "generator"
    out = output_folder(args, place(args, "samples", run_name(args)))
    known = content["state"]["known"]
    write_shipped(out / f"{content['args']['model']}.pt", content, {"generator": content[part]}, about, known=known)
    if (path := predictor_file(args)).exists():
        content = read_checkpoint(path)
        write_shipped(out / "predictor.pt", content, {"predictor": content["predictor"]}, about)
