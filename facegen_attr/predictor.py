"""--run train_predictor: which attributes a photo shows, so that nobody labels one by hand; all 40 of CelebA's."""

import math

import torch
import torch.nn.functional as F

from common.celeba import ATTRIBUTES, batches, to_tensor
from facegen_attr.loading import attributes_of, load_records, make_optimizer, run_name, split
from facegen_attr.model import READ_SIZE, Predictor
from facegen_attr.plumbing import Journal, descend, in_chunks, read_checkpoint, replayed, set_rate, setup, slice_of


def shifted(x, numbers, most=4):
    """Pictures x (N, 3, H, W), each moved by up to `most` pixels, edges repeated. numbers: (2, N) in [0, 1)."""
    height, width = x.shape[2:]
    down, right = (numbers * (2 * most + 1)).long()
    rows = down[:, None] - most + torch.arange(height, device=x.device)
    columns = right[:, None] - most + torch.arange(width, device=x.device)
    rows, columns = rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None]
    which = torch.arange(len(x), device=x.device)[:, None, None]
    return x[which, :, rows, columns].permute(0, 3, 1, 2)


@torch.no_grad()
def read_logits(predictor, images):
    """Pictures (N, 64, 64, 3) uint8 -> logits (N, 40), on the CPU."""
    device = next(predictor.parameters()).device
    predictor.eval()
    return torch.cat([predictor(to_tensor(images[part], device)).cpu() for part in in_chunks(images)])


def predict(predictor, images):
    """Pictures (N, 64, 64, 3) uint8 -> (N, 40) 1 or 0."""
    return (read_logits(predictor, images) > 0).float()


def balanced_accuracy(said, truth):
    """Mean over yes and no of the share read right, for each column of (N, A) 1 / 0; nan where there is one kind."""
    yes, no = truth == 1, truth == 0
    right = (said == truth).float()
    return ((right * yes).sum(0) / yes.sum(0) + (right * no).sum(0) / no.sum(0)) / 2


def train_predictor(args):
    """Train the network that reads the attributes of a person's own photo; the best on validation is kept."""
    device, autocast, rank, world = setup(args)
    args.shaping = ["batch_size", "beta1", "learning_rate", "optimizer", "seed", "train_size"]  # the others are a GAN's

    # Data
    mine = slice_of(args.batch_size, rank, world)
    records = load_records(args, (READ_SIZE, READ_SIZE), device, rank)
    attributes = attributes_of(records, ATTRIBUTES)
    train_rows, validation_rows = split(args, records)

    # Network
    torch.manual_seed(args.seed)  # here, so that the first weights are the same whatever was packed before
    predictor = Predictor().to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(args, predictor)

    # Logbook
    about = f"{len(train_rows)} training and {len(validation_rows)} validation faces"
    parts = dict(predictor=predictor, optimizer=optimizer)
    facts = dict(data=records.describe())
    journal = Journal(args, run_name(args), parts, len(train_rows), about, facts, device, rank)
    stream = batches(records, train_rows, args.batch_size, device, args.seed, journal.step, rank, world, flip=True)
    there = attributes.to(device)

    def step(x, c):
        """Predictor: read the attributes."""
        predictor.train()
        numbers = torch.rand(2, args.batch_size, device=device)[:, mine]
        with autocast():
            reading = predictor(shifted(x, numbers))
        loss = F.binary_cross_entropy_with_logits(reading.float(), c)
        descend(loss, optimizer)
        return dict(predictor=loss)

    step = replayed(step, device)
    for number in journal.steps():
        set_rate(optimizer, args.learning_rate * (1 + math.cos(math.pi * number / journal.planned)) / 2)
        x, chosen = next(stream)
        losses = step(x, there[chosen])

        # What is due: numbers, validation, a checkpoint
        journal.add(**losses)
        if rank == 0 and journal.sheet_due:
            logits = read_logits(predictor, records.images[validation_rows])
            error = F.binary_cross_entropy_with_logits(logits, attributes[validation_rows]).item()
            journal.scalar("loss/validation", error)
            journal.keep_if_best(error)
        journal.save({"predictor": predictor})
    journal.close("validation loss {:.4f}".format)
    if journal.writer and journal.model.exists():
        predictor.load_state_dict(read_checkpoint(journal.model)["predictor"])
        print_accuracy(predictor, records, attributes)


def print_accuracy(predictor, records, attributes):
    """How well each attribute is read on validation and test faces."""
    parts = [rows for rows in map(records.rows, ("validation", "test")) if len(rows)]
    table = [balanced_accuracy(predict(predictor, records.images[rows]), attributes[rows]) for rows in parts]
    print("balanced accuracy on validation and test faces:")
    for k, name in enumerate(ATTRIBUTES):
        print(f"{name:20} {'  '.join(f'{values[k].item():.3f}' for values in table)}")
    print(f"{'mean':20} {'  '.join(f'{values.nanmean().item():.3f}' for values in table)}")
