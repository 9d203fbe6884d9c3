"""--run test: the test faces or one's own photos, repeated from their embeddings, beside PCA; numbers and pictures."""

import csv
import json
from collections import defaultdict

import torch
from tqdm import tqdm

from common.celeba import to_uint8
from common.photos import name_outputs, save_pictures, write_table
from hyperencoder.loading import load_model, load_pictures, reconstruct, run_name
from hyperencoder.plumbing import in_chunks, output_folder, place, psnr, save_sheet


def test(args):
    """Reconstruct the test faces or --images: grid, metrics.json and embeddings.csv.

    They lie in --out_dir or a new folder, test_001 and so on; with single pictures (also as the face was cut,
    `source/`, and by PCA, `pca/`) and a manifest where --images or --out_dir is given.
    """
    from pytorch_msssim import ssim

    model, device, autocast, _ = load_model(args)
    images, names = load_pictures(args, model, device)
    single = args.images or args.out_dir
    out = output_folder(args, place(args, "samples", run_name(args)))

    sums, embeddings, sheet, stems = defaultdict(float), [], {}, name_outputs(names)
    labels = {"": "Predicted", "encoder_": "Encoder alone", "pca_": f"PCA, {model.embed_size} numbers"}
    for part in tqdm(in_chunks(images), "repeated", unit=" x 64 faces", disable=None):
        x, x_hat, embedding = reconstruct(model, images[part], device, autocast)
        guesses = {"": x_hat}
        if args.n_iter:
            embedding = model.search(x, embedding, args.n_iter)
            with torch.no_grad(), autocast():
                guesses = {"": model.decode(embedding).float(), "encoder_": x_hat}
        guesses["pca_"] = model.pca(x)
        embeddings.append(embedding.cpu())
        for name, guess in guesses.items():
            sums[name + "mse"] += (guess - x).square().mean((1, 2, 3)).sum().item()
            scores = ssim(guess / 2 + 0.5, x / 2 + 0.5, data_range=1, size_average=False)
            sums[name + "ssim"] += scores.sum().item()
        sums["mean_face_mse"] += (model.mean.view(3, *model.size) - x).square().mean((1, 2, 3)).sum().item()
        sheet = sheet or {"Real": x[:16]} | {labels[name]: guess[:16] for name, guess in guesses.items()}
        if single:
            save_pictures(out / "source", stems[part], to_uint8(x))
            save_pictures(out / "pca", stems[part], to_uint8(guesses["pca_"]))
            save_pictures(out, stems[part], to_uint8(guesses[""]))

    embeddings = torch.cat(embeddings)
    metrics = {"faces": len(images), "embed_size": model.embed_size}
    for name, value in sums.items():
        value /= len(images)
        if name.endswith("mse"):
            metrics |= {name: value, f"{name}_01": value / 4, name[:-3] + "psnr": psnr(value)}
        else:
            metrics[name] = value
    if len(images) > 1:
        spread = embeddings.std(0)
        metrics |= {"embedding_std": spread.mean().item(), "dead_numbers": int((spread < 1e-6).sum())}
    if single:
        write_table(out / "manifest.tsv", ("file", "source"), [(f"{stem}.png", f"source/{stem}.png") for stem in stems])
    save_sheet(out / "test.png", sheet)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    with open(out / "embeddings.csv", "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file)
        table.writerow(["file", *(f"x{i}" for i in range(model.embed_size))])
        for name, row in zip(names, embeddings.tolist(), strict=True):
            table.writerow([name, *map("{:.6g}".format, row)])
    print(json.dumps(metrics, indent=1))
    print(f"test.png, metrics.json and embeddings.csv in {out}")
