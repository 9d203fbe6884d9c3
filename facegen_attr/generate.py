"""--run generate: pictures of what is asked for, from noise; of dcgan5, faces that are changed as asked for."""

import torch

from common.celeba import to_uint8
from common.mtcnn import put_back
from common.photos import save_pictures, write_table
from facegen_attr.asking import (
    as_request,
    draw_requests,
    own_faces,
    seen_together,
    test_faces,
    wanted,
)
from facegen_attr.attributes import exclusions, flipped
from facegen_attr.loading import load_model, noise, run_name
from facegen_attr.plumbing import output_folder, place, save_sheet


def changes(args, model):
    """Which faces are changed and to what: x, their attributes c, those asked for, each request's text, and its Place.

    The faces of --images or the test faces in turn; --request, or one attribute turned round, another for each face (of
    one's own: for each photo, GIF or video).
    """
    names = model.flags.attributes
    x, c, places = own_faces(args, model, args.images) if args.images else (*test_faces(args, model), None)
    columns, values = wanted(args.request, names)
    turns = torch.arange(args.count or (len(x) if args.images else 16))
    if columns and len(turns) > len(x):
        print(f"--count {len(turns)}: each of {len(x)} faces once, since all are asked for the same")
        turns = turns[: len(x)]
    chosen = turns % len(x)
    if places:
        files = sorted({place.file for place in places}, key=[place.file for place in places].index)
        turns = turns // len(x) * len(files) + torch.tensor([files.index(place.file) for place in places])[chosen]
        places = [places[row] for row in chosen]
    x, c = x[chosen], c[chosen]
    if columns:
        asked = c.clone()
        asked[:, columns] = values
        still = (asked == c).all(1).tolist()
        for name in dict.fromkeys(place.name for row, place in enumerate(places or []) if still[row]):
            print(f"{name}: that is what it shows already, so it stays; --shows says what is misread")
        return x, c, asked, [as_request([names[k] for k in columns], values)] * len(c), places
    asked = flipped(c, (turns % len(names) + 0.5) / len(names), exclusions(names))
    texts = []
    for before, after in zip(c, asked, strict=True):  # of hair colours, the one that comes
        turned = [k for k in range(len(names)) if after[k] != before[k]]
        turned = [k for k in turned if after[k]] or turned
        texts.append(as_request([names[k] for k in turned], after[turned]))
    if places:
        told = dict.fromkeys(f"{place.name} {text}" for place, text in zip(places, texts, strict=True))
        print(f"nothing was asked for by --request, so one attribute is turned round: {', '.join(told)}")
    return x, c, asked, texts, places


def write_photos(folder, places, before, after):
    """The photos of --images with their faces changed; a second change of the same face goes to NAME_2, and so on."""
    rounds, number, taken = {}, 0, set()
    for row, spot in enumerate(places):
        rounds.setdefault(sum(other is spot for other in places[:row]), []).append(row)
    for rows in rounds.values():
        number += 1
        while any(f"{stem}_{number}" in taken for stem in taken):  # a.jpg may lie beside an a_2.jpg
            number += 1
        name = f"{{}}_{number}" if taken else "{}"
        written = put_back(folder, [places[row] for row in rows], {name: after[rows]}, before[rows])
        taken |= {str(path.with_suffix("")).lower() for path in written}


def generate(args):
    """Write a sheet, single files and manifest.tsv, which benchmarks/quality.py reads."""
    model = load_model(args)
    edits = model.flags.model == "dcgan5"
    if edits:
        start, c, asked, texts, places = changes(args, model)
        if any(spot.frame for spot in places or ()):  # frames of a clip are asked alike, so that nothing flickers
            model = model._replace(predictor=None)
    else:
        pool, count = seen_together(args, model), args.count or 16
        c = asked = draw_requests(pool, model.flags.attributes, args.request, count, args.seed)
        texts = [as_request(model.flags.attributes, row) for row in asked]
        start = noise(model.flags, count, args.seed)
    out_dir = output_folder(args, place(args, "samples", run_name(args)))
    x = model.answer(start, c, asked)

    files = [f"{i:05d}.png" for i in range(len(x))]
    names = [file.removesuffix(".png") for file in files]
    save_pictures(out_dir, names, to_uint8(x))
    if edits:
        save_pictures(out_dir / "source", names, to_uint8(start))
        rows = [(file, text, f"source/{file}") for file, text in zip(files, texts, strict=True)]
        write_table(out_dir / "manifest.tsv", ("file", "request", "source"), rows)
        sheet = {"as they were": start[:32], "as asked for": x[:32]}
        if places:
            write_photos(out_dir / "photos", places, to_uint8(start), to_uint8(x))
    else:
        write_table(out_dir / "manifest.tsv", ("file", "request"), zip(files, texts, strict=True))
        sheet = {args.request or "as some face has it": x[:256]}
    save_sheet(out_dir / "sheet.png", sheet)
    print(f"{len(x)} pictures, sheet.png and manifest.tsv in {out_dir}")
