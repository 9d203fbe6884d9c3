"""--run ship: a trained model as a small file, which can come with the program or be given away."""

import torch

from dapgan.augmentation import know_faces
from dapgan.loading import find_predictor, load_model, load_records, run_name, version_of
from dapgan.plumbing import find_model, output_folder, packed, place, shown_part, trained_on, unpacked, write_shipped


def ship(args):
    """Write the model of the run that the flags name, MODEL.pt or digits.pt, and MODEL_predictor.pt if it is used.

    With what `augment` knows of unlabelled faces: components, likenesses and how attributes are read, all numbers.
    """
    faces = args.data == "celeba"
    _, content = find_model(args, run_name(args))
    if faces:
        about = trained_on(args, content)
    else:
        about = f"trained on {len(load_records(args, 'cpu').rows('train')):,} digits ({args.data})"
    gan = load_model(args)
    out = output_folder(args, place(args, "samples", run_name(args)))
    state = dict(faces=known_faces(args, gan)) if faces and gan.reader is not None else {}
    networks = {name: content[shown_part(content, name)] for name in ("generator", "discriminator")}
    path = out / f"{args.model if faces else 'digits'}.pt"
    write_shipped(path, content, networks, about, **state)
    if gan.predictor is not None:
        content = find_predictor(args)[1]
        kept = unpacked(packed(networks["generator"]["fc.weight"]))  # which the predictor has to know
        content["args"]["inverts"] = version_of({"fc.weight": kept})
        weights = content[shown_part(content, "predictor")]
        write_shipped(path.with_stem(f"{path.stem}_predictor"), content, {"predictor": weights}, about)


def known_faces(args, gan):
    """What `augment` knows of the training faces, as numbers."""
    known, reader, accuracy = know_faces(args, gan)
    numbers = known.numbers()
    if reader:
        numbers |= dict(names=reader.names, weights=reader.weights, accuracy=accuracy)
    return smaller(numbers) | dict(looks=packed(numbers["looks"].cpu()))  # the largest: a row of numbers a face


def smaller(numbers):
    """Tensors in a dict, at any depth, on the CPU and matrices in half precision."""
    if torch.is_tensor(numbers):
        return numbers.half().cpu() if numbers.dim() > 1 else numbers.cpu()
    return {name: smaller(x) for name, x in numbers.items()} if isinstance(numbers, dict) else numbers
