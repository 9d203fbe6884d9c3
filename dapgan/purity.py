"""--run purity: what the code of a model of digits means, judged by a classifier that knows real digits."""

import torch
import torch.nn.functional as F
from torch import nn

from common.celeba import to_tensor
from common.photos import InputError, write_table
from dapgan.digits import deform, shape_of
from dapgan.loading import load_model, load_records, run_name
from dapgan.plumbing import output_folder, place
from dapgan.recover import read_own


class DigitClassifier(nn.Module):
    """A picture of a digit (N, 3, S, S) -> ten logits: the judge of what a category of the code means."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2, 2), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * 64, 10))

    def forward(self, x):
        return self.layers(F.interpolate(x[:, :1], (32, 32), mode="area"))


def train_digit_classifier(records, device, epochs=20):
    """The judge, trained on the training digits, slightly moved about; and its accuracy on the test digits.

    No generator has a part in it, and it has none in training one.
    """
    random = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = DigitClassifier().to(device)
        optimizer = torch.optim.Adam(classifier.parameters(), 0.002)
        rows = records.rows("train")
        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = 0.002 * (1 - epoch / epochs)
            for chosen in torch.randperm(len(rows), generator=random).split(64):
                x = to_tensor(records.images[rows[chosen]], device)
                x = deform(x, (torch.rand(2, len(x), generator=random) * 2 - 1).to(device))
                loss = F.cross_entropy(classifier(x), torch.from_numpy(records.labels[rows[chosen]]).to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    classifier.eval()
    rows = records.rows("test")
    digits = classify(classifier, to_tensor(records.images[rows], device)).cpu()
    return classifier, (digits == torch.from_numpy(records.labels[rows])).float().mean().item()


@torch.no_grad()
def classify(classifier, x):
    """Pictures (N, 3, S, S) -> which digit each shows, (N,)."""
    return torch.cat([classifier(part).argmax(1) for part in x.split(256)])


def purity(digits, categories, count):
    """How well categories mean digits: (share of pictures that show their category's majority digit, the majorities).

    digits, categories: (N,) each, count: how many categories there are.
    """
    table = torch.zeros(count, 10, dtype=torch.long)
    table.index_put_((categories.cpu(), digits.cpu()), torch.ones(len(digits), dtype=torch.long), accumulate=True)
    return table.max(1).values.sum().item() / len(digits), table.argmax(1).tolist()


def spans(numbers, category, measured):
    """For each of a code's numbers (N, C), in words: what of the measured values (N,) goes with it.

    Within a category (N,), since digits differ in both; beside it the means at the ends of the number's range.
    """
    lines = []
    for code in numbers.T:
        texts = []
        for name, values in measured.items():
            centred = values.clone()
            for c in category.unique():
                centred[category == c] -= values[category == c].mean()
            together = torch.corrcoef(torch.stack([code, centred]))[0, 1].item()
            low, high = (values[part].mean().item() for part in (code < -0.8, code > 0.8))
            texts.append(f"{name} {low:+.2f} to {high:+.2f} (correlation {together:+.2f})")
        lines.append(", ".join(texts))
    return lines


def check_digits(args):
    """What the code of a model of digits means: purity of its categories, width and slant by its numbers.

    Judged by a classifier that is trained here on real digits, on --count generated ones, 1,000 at least.
    """
    if args.data == "celeba":
        raise InputError("--run purity is for digits: --data digits or --data mnist")
    gan = load_model(args)
    if not gan.latent.categorical:
        raise InputError("--run purity needs a categorical code: --categorical 10")
    classifier, accuracy = train_digit_classifier(load_records(args, gan.device), gan.device)
    out = output_folder(args, place(args, "samples", run_name(args)))
    z = gan.latent.draw(max(args.count, 1000), torch.Generator().manual_seed(args.seed)).to(gan.device)
    x_fake = gan.generate(z)
    _, classes, continuous = gan.latent.parts(z.cpu())
    digits, category, count = classify(classifier, x_fake).cpu(), classes[0].argmax(1), classes[0].shape[1]
    share, majority = purity(digits, category, count)
    found = [torch.bincount(digits[category == number], minlength=10).tolist() for number in range(count)]
    rows = [[number, majority[number], *found[number]] for number in range(count)]
    write_table(out / "purity.tsv", ["category", "majority", *range(10)], rows)
    print(f"judge: {accuracy:.1%} of real test digits right")
    means = f"digits by category: {' '.join(map(str, majority))}; {len(set(majority))} different"
    print(f"purity {share:.1%} of {len(z)} pictures; {means}")
    for number, line in enumerate(spans(continuous, category, shape_of(x_fake))):
        print(f"code {number + 1}: {line}")
    if gan.reader is not None:
        print(f"read: {read_own(args, gan)}")
    print(f"purity.tsv in {out}")
