"""--run ship: trained models as small files, which can come with the program or be given away."""

from common.photos import InputError
from face_math.arithmetic import MAIN, labelled_vectors
from face_math.loading import load_records, results_folder
from face_math.plumbing import packed, setup, shown_part, trained_on, unpacked, write_shipped
from face_math.trained import find_part, load_model, version_of


def ship(args):
    """Write the models of the run that the flags name: gan.pt and, of what there is beside it, gan_encoder.pt,
    gan_filler.pt, gan_vae.pt; and gan_vectors.pt, the vectors of the main attributes and of the head's turn.
    """
    about = trained_on(args, find_part(args)[1])
    device, autocast, *_ = setup(args)
    model, out = load_model(args, device, autocast), results_folder(args)
    written = {}  # versions of the weights that are written, by which what is beside them knows them
    for part in ("", "_encoder", "_filler", "_vae"):
        path, content, _ = find_part(args, part)
        if content is None:
            print(f"no {part[1:]} beside the GAN: none is written")
            continue
        if content["args"].get("inverts", model.version) != model.version:
            raise InputError(f"{path} was trained for another generator: --run train{part} again")
        names = [name for name in ("generator", "discriminator", "encoder", "guess") if name in content]
        if not part and find_part(args, "_encoder")[1]:
            names = ["generator", "discriminator"]  # the encoder beside it is the one that is used
        networks = {name: content[shown_part(content, name)] for name in names}
        if part in ("", "_encoder"):
            for name, weights in networks.items():  # the generator is the GAN's: the encoder may have one of its own
                written.setdefault(name, version_of({"fc.weight": unpacked(packed(weights["fc.weight"]))}))
        if part and "inverts" in content["args"]:
            content["args"]["inverts"] = written["generator"]
        write_shipped(out / f"gan{part}.pt", content, networks, about)
    args.attributes = [*MAIN, "Turn"]
    try:
        write_vectors(args, model, out / "gan_vectors.pt", about, written)
    except InputError as error:
        print(f"no vectors are written: {error}")


def write_vectors(args, model, path, about, written):
    """Write the vectors of --attributes, of both kinds, as those of the generator and encoder of these versions.

    InputError: there is no encoder, or there are no labels.
    """
    if model.encoder is None:
        raise InputError("they need an encoder")
    found, records = dict(inverts=written["generator"], reader=written["encoder"]), load_records(args, model.device)
    for args.vectors in ("mean", "regression"):
        vectors = labelled_vectors(args, model, records)
        found[args.vectors] = dict(names=[*vectors], vectors=[vector.tolist() for vector in vectors.values()])
    write_shipped(path, dict(args={}, state={}), {}, about, **found)
