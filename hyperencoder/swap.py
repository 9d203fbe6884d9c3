"""--run swap: one person's face in another's place, with the decoders that train_swap has trained."""

import torch

from common.celeba import to_uint8
from common.mtcnn import MTCNN, crop, paste, pick, square_matrix
from common.photos import InputError, frames, name_outputs, named_files, save_pictures
from hyperencoder.loading import embed, load_model
from hyperencoder.plumbing import new_folder


@torch.no_grad()
def put_in(model, images, device, autocast, person, means):
    """Faces (N, h, w, 3) uint8 as `person`'s decoder draws them, and themselves: (N, 3, H, W) in [-1, 1] each.

    A decoder has only seen its own person's embeddings, and draws noise from others'. So each embedding is first moved
    by the way from the mean of whoever of the trained people is nearest, to `person`'s mean (means: (people, E)).
    """
    x, embedding = embed(model, images, device, autocast)
    embedding, means = embedding.float(), means.to(device)
    nearest = torch.cdist(embedding, means).argmin(1)
    with autocast():
        made = model.decode(embedding - means[nearest] + means[person], person)
    return made.float(), x


def swap(args):
    """Put --person's face over the faces of --images: embed each face, decode it as that person, blend it back."""
    if not args.images or not args.out_dir:
        raise InputError("--run swap needs --images, what to change, and --out_dir, where the results go")
    model, device, autocast, state = load_model(args)
    people = state["people"]
    person = args.person or people[-1]
    if person not in people:
        raise InputError(f"--person {person}: the model knows {', '.join(people)}")
    if state.get("means") is None:
        raise InputError("this model does not know its people's mean embeddings: --run train_swap again")
    files, names = named_files(args.images)
    out_dir, detector, swapped = new_folder(args.out_dir, args.overwrite), MTCNN(device), 0
    for file, whole, stem in zip(files, names, name_outputs(names), strict=True):
        for name, photo, problem in frames([file], [whole]):
            boxes, _, _ = detector.detect([] if photo is None else [photo])
            if problem or not len(boxes[0]):
                print(f"{name} skipped: {problem or 'no face found'}")
                continue
            chosen = boxes[0] if args.all_faces else boxes[0][[pick(boxes[0], photo.shape, "largest")]]
            for box in chosen:
                face = crop(photo, box, 128)[None]
                made, _ = put_in(model, face, device, autocast, people.index(person), state["means"])
                made = to_uint8(made)[0]
                photo = paste(photo, made, square_matrix(box, made.shape))
            swapped += 1
            number = name.removesuffix(file.suffix)[len(whole.removesuffix(file.suffix)) :]  # of a frame
            save_pictures(out_dir, [f"{stem}{number}"], [photo])
    if not swapped:
        raise InputError("no face found in any of the pictures")
    print(f"{swapped} pictures now show {person}: {out_dir}")
