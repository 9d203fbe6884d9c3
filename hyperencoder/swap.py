"""--run swap: one person's face in another's place, with the decoders that train_swap has trained."""

import contextlib

import torch

from common.celeba import to_uint8
from common.mtcnn import MTCNN, crop, kind_of, match_colours, paste, pick, rescale, rewrite, soft_oval, square_matrix
from common.photos import InputError, name_outputs, named_files
from hyperencoder.loading import embed, load_model, run_name
from hyperencoder.plumbing import output_folder, place

CROP = 128  # pixels of the faces that go in


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


def swap_faces(photo, people, detector, all_faces):
    """A photo with the largest face (or all) another's, (H, W, 3) uint8; None where there is none.

    people: (model, device, autocast, person, means), as put_in() takes them. An oval of each face is replaced, its
    colours brought to those of the face that was there.
    """
    model, device, autocast, person, means = people
    (boxes,), _, _ = detector.detect([photo])
    chosen, result = range(len(boxes)) if all_faces else [pick(boxes, photo.shape, "largest")], None
    for index in chosen if len(boxes) else ():
        made, x = put_in(model, crop(photo, boxes[index], CROP)[None], device, autocast, person, means)
        made, x = to_uint8(made)[0], to_uint8(x)[0]
        size, weight = made.shape[:2], soft_oval(made.shape[:2])
        matrix = rescale(square_matrix(boxes[index], (CROP, CROP)), (0, 0, CROP, CROP), size)
        result = paste(photo if result is None else result, match_colours(made, x, weight), matrix, weight=weight)
    return result


def swap(args):
    """Put --person's face over the faces of --images: embed each face, decode it as that person, blend it back."""
    if not args.images:
        raise InputError("--run swap needs --images, what to change")
    model, device, autocast, state = load_model(args)
    people = state["people"]
    person = args.person or people[-1]
    if person not in people:
        raise InputError(f"--person {person}: the model knows {', '.join(people)}")
    if state.get("means") is None:
        raise InputError("this model does not know its people's mean embeddings: --run train_swap again")
    files, names = named_files(args.images)
    out_dir = output_folder(args, place(args, "samples", run_name(args)))
    detector, swapped = MTCNN(device), 0
    who = model, device, autocast, people.index(person), state["means"]
    for file, name, stem in zip(files, names, name_outputs(names), strict=True):
        path = out_dir / f"{stem}{kind_of(file)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            count, found, lost = rewrite(file, path, lambda _, photo: swap_faces(photo, who, detector, args.all_faces))
        except InputError as error:
            count, found, lost = 0, 0, [str(error).removeprefix(f"{file}: ")]
        swapped += found > 0
        if found:
            told = [f"a face swapped in {found} of {count} frames"] * (count > 1)
            print("; ".join([str(path), *told, *([f"not kept of {file}: {', '.join(lost)}"] if lost else [])]))
        else:
            print(f"{name} skipped: {lost[0] if count == 0 else 'no face found'}")
    if not swapped:
        with contextlib.suppress(OSError):
            out_dir.rmdir()
        raise InputError("no face found in any of the pictures")
    print(f"{swapped} of {len(files)} files now show {person}: {out_dir}")
