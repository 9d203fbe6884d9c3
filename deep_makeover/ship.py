"""--run ship: a trained model as a small file, which can come with the program or be given away."""

from deep_makeover.loading import run_name
from deep_makeover.plumbing import find_model, output_folder, place, trained_on, write_shipped


def ship(args):
    """Write the model of the run that the flags name, MODE.pt, with the score that 95% of makeovers are above."""
    about = trained_on(args)
    _, content = find_model(args, run_name(args))
    part = "ema" if content["args"]["show_ema"] and "ema" in content else "generator"
    networks = dict(generator=content[part], discriminator=content["discriminator"])
    known = {name: content["state"][name] for name in ("least",) if name in content["state"]}
    content["args"]["attribute_file"] = None  # where a person keeps it is nobody's business
    out = output_folder(args, place(args, "samples", run_name(args)))
    write_shipped(out / f"{content['args']['mode']}.pt", content, networks, about, **known)
