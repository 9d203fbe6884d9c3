"""--run generate: pictures of what is asked for, from noise; of dcgan5, faces that are changed as asked for."""

import torch

from common.celeba import to_uint8
from common.photos import save_pictures
from facegen_attr.asking import (
    as_request,
    check_photos,
    draw_requests,
    own_faces,
    seen_together,
    test_faces,
    wanted,
)
from facegen_attr.attributes import exclusions, flipped
from facegen_attr.loading import load_model, noise, run_name
from facegen_attr.plumbing import output_folder, place, save_sheet, write_table


def changes(args, model):
    """Which faces are changed and to what: x, their attributes c, those asked for, and each request's text.

    The faces of --images or the test faces in turn; --request, or one attribute turned round, another for each face.
    """
    names = model.flags.attributes
    x, c = own_faces(args, model, args.images) if args.images else test_faces(args, model)
    columns, values = wanted(args.request, names)
    chosen = torch.arange(args.count or (len(x) if args.images else 16)) % len(x)
    x, c = x[chosen], c[chosen]
    if columns:
        asked = c.clone()
        asked[:, columns] = values
        return x, c, asked, [as_request([names[k] for k in columns], values)] * len(c)
    asked = flipped(c, (torch.arange(len(c)) % len(names) + 0.5) / len(names), exclusions(names))
    texts = []
    for before, after in zip(c, asked, strict=True):  # of hair colours, the one that comes
        turned = [k for k in range(len(names)) if after[k] != before[k]]
        turned = [k for k in turned if after[k]] or turned
        texts.append(as_request([names[k] for k in turned], after[turned]))
    return x, c, asked, texts


def generate(args):
    """Write a sheet, single files and manifest.tsv, which benchmarks/quality.py reads."""
    model = load_model(args)
    check_photos(args, model)
    edits = model.flags.model == "dcgan5"
    if edits:
        start, c, asked, texts = changes(args, model)
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
    else:
        write_table(out_dir / "manifest.tsv", ("file", "request"), zip(files, texts, strict=True))
        sheet = {args.request or "as some face has it": x[:256]}
    save_sheet(out_dir / "sheet.png", sheet)
    print(f"{len(x)} pictures, sheet.png and manifest.tsv in {out_dir}")
