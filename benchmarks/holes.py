"""A hole in test faces, filled by face_math's generator and by what it has to beat: decibels in the hole, and pictures.

    python benchmarks/holes.py --dataset_dir data/celeba --image_size 64 --out_dir /tmp/holes
It takes the flags of `python face_math/main.py --run complete`, with --recipe best unless another is given: what the
filler makes, or with --start encoder what encoder and search make. The mean face and the linear prediction (ridge
regression on 300 principal components of the surround) are fitted on the training faces in the same run; Telea is
cv2.inpaint. The pictures of each method lie in a folder of --out_dir with a manifest, so that benchmarks/quality.py can
say how real they look (decibels reward blur).
"""

import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.celeba import subset, to_tensor, to_uint8
from common.photos import InputError
from face_math import main as face_math
from face_math.baselines import fill_linearly


def main(argv=None):
    """Fill the hole in every way and print the table; returns its rows: (method, decibels)."""
    args = face_math.parse_args(["--run", "complete", "--recipe", "best", *(sys.argv[1:] if argv is None else argv)])
    hole = face_math.read_hole(args)
    inside = hole.numpy()
    if inside.all():
        raise InputError("--mask full leaves nothing to fill from: take another")
    model = face_math.prepare(args)
    records = face_math.load_records(args, model.device, 0)
    images, names = face_math.load_pictures(args, model.device, args.images)
    out, x = face_math.output_folder(args), to_tensor(images, model.device)

    rows = subset(records.rows("train"), args.train_size, args.seed)
    made = {name: to_uint8(pictures) for name, pictures in fill_linearly(records, rows, x, hole).items()}
    mask = inside.astype(np.uint8)
    made["Telea"] = np.stack([cv2.inpaint(picture, mask, 3, cv2.INPAINT_TELEA) for picture in np.array(images)])
    _, filled = face_math.fill_hole(args, model, images, hole)
    made |= {"GAN": filled["filled"], "GAN, blended": filled["blended"]}

    face_math.save_pictures(out / "originals", names, images)
    table = []
    for name, pictures in made.items():
        pictures = np.where(inside[:, :, None], pictures, images)
        table.append((name, face_math.psnr(face_math.hole_error(pictures, images, inside).mean())))
        folder = name.replace(", ", "_").replace(" ", "_").lower()
        face_math.save_pictures(out / folder, names, pictures)
        face_math.write_table(out / folder / "manifest.tsv", ["file", "source"],
                              [[f"{stem}.png", f"../originals/{stem}.png"] for stem in names])  # fmt: skip
    face_math.save_sheet(out / "sheet.png", {name: to_tensor(pictures[:16]) for name, pictures in made.items()})
    print(f"{len(images)} faces, {args.n_iter} steps of the search; decibels in the hole")
    for name, decibels in table:
        print(f"{name:20}{decibels:8.2f}")
    return table


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(face_math.fail(str(error)))
