"""--run ship: a trained model as a small file, which can come with the program or be given away."""

from common.celeba import parse_condition
from deep_makeover.loading import MODES, load_model, run_name
from deep_makeover.plumbing import find_model, output_folder, place, shown_part, trained_on, write_shipped


def ship(args):
    """Write the model of the run that the flags name, MODE.pt, with the score that 99% of makeovers are above."""
    _, content = find_model(args, run_name(args))
    about = f"{trained_on(args, content)}, those of them that its two sides select"
    load_model(args)  # what cannot be used is not written
    networks = dict(generator=content[shown_part(content, "generator", "ema")])
    networks |= {name: content[name] for name in ("discriminator",) if name in content}
    known = {name: content["state"][name] for name in ("least",) if name in content["state"]}
    flags = content["args"]
    flags |= dict(mode=kind_of(flags), attribute_file=None)  # where a person keeps that file is nobody's business
    out = output_folder(args, place(args, "samples", run_name(args)))
    write_shipped(out / f"{flags['mode']}.pt", content, networks, about, **known)


def kind_of(flags):
    """The mode that a model is shipped as: its own, or that which turns men to women, or women to men, as it does."""
    sexes = tuple(f"Male={parse_condition(flags[side]).get('Male')}" for side in ("source", "target"))
    return next((mode for mode in ("mtf", "ftm") if MODES[mode] == sexes), flags["mode"])
