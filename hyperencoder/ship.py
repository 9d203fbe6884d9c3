"""--run ship: a trained model as a small file, which can come with the program or be given away."""

from hyperencoder.anomaly import errors_of
from hyperencoder.loading import load_model, load_records, run_name
from hyperencoder.plumbing import find_model, output_folder, place, shown_part, trained_on, write_shipped


def ship(args):
    """Write the model of the run that the flags name, RECIPE.pt, with the validation faces' errors as numbers."""
    _, content = find_model(args, run_name(args))
    flags, about = content["args"], trained_on(args, content)
    model, device, autocast, _ = load_model(args)
    part = shown_part(content, "model", "ema")
    state = {name: content["state"].get(name) for name in ("people", "means", "validation_errors")}
    state = {name: value for name, value in state.items() if value is not None}
    if "validation_errors" not in state:  # it was stopped before the end of its first epoch
        records = load_records(args, device)
        errors = errors_of(model, records.images[records.rows("validation")], device, autocast)
        state["validation_errors"] = errors.sort().values
    out = output_folder(args, place(args, "samples", run_name(args)))
    write_shipped(out / f"{flags['recipe']}.pt", content, {"model": content[part]}, about, **state)
