"""What can be asked for: the document's sets of attributes; wrong, turned, contradictory, rare ones.

Attributes c are (N, A), 1 for there and 0 for not there. Randomness comes as numbers, uniform in [0, 1).
"""

import torch

from common.celeba import attribute_indices

SETS = {
    "1": ["Male"],
    "2": ["Male", "Smiling"],
    "5": ["Black_Hair", "Blond_Hair", "Male", "Smiling", "Young"],
    "8": ["Male", "Smiling", "Black_Hair", "Blond_Hair", "Eyeglasses", "No_Beard", "Wearing_Hat", "Young"],
    "23": """Arched_Eyebrows Bags_Under_Eyes Bangs Big_Lips Big_Nose Black_Hair Blond_Hair Brown_Hair Bushy_Eyebrows
        Eyeglasses Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Narrow_Eyes No_Beard Oval_Face Pointy_Nose
        Smiling Straight_Hair Wavy_Hair Wearing_Hat Young""".split(),
}
EXCLUSIVE = [  # what no face has together
    ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Bald"),
    ("Bald", "Straight_Hair", "Wavy_Hair"),
    ("Bald", "Bangs"),
    ("Bangs", "Receding_Hairline"),
    *(("No_Beard", beard) for beard in ("Goatee", "5_o_Clock_Shadow", "Mustache", "Sideburns")),
]


def attribute_list(text):
    """Names of attributes from the name of a set, or a list; InputError with the nearest names."""
    names = SETS.get(text) or [name.strip() for name in text.split(",")]
    attribute_indices(names)
    return names


def pick_one(c, numbers):
    """(N, A) bool, one True a row of c: which attribute the numbers (N,), uniform in [0, 1), choose."""
    return torch.arange(c.shape[1], device=c.device) == (numbers * c.shape[1]).long()[:, None]


def mismatched(c, pool, numbers):
    """Wrong attributes for the faces whose right ones are c (N, A): another face's, and never the right ones.

    pool: (M, A), the attributes of the faces to take them from; numbers: (2, N) uniform in [0, 1). Where the other face
    has the same attributes, one of them is turned round.
    """
    other = pool[(numbers[0] * len(pool)).long()]
    turned = pick_one(c, numbers[1]) & (other == c).all(1, keepdim=True)
    return torch.where(turned, 1 - other, other)


def flipped(c, numbers, exclusive):
    """c (N, A) with one attribute turned round; a hair colour that comes takes the place of the one that was there.

    numbers: (N,) uniform in [0, 1); exclusive: (A, A) bool, which attributes end when another begins.
    """
    chosen = pick_one(c, numbers)
    ends = ((chosen & (c == 0))[:, :, None] & exclusive).any(1)
    return torch.where(chosen, 1 - c, c * ~ends)


def exclusions(attributes):
    """(A, A) bool: whether the two attributes contradict each other, as Bald and Bangs do."""
    pairs = [[a != b and any(a in group and b in group for group in EXCLUSIVE) for b in attributes] for a in attributes]
    return torch.tensor(pairs)


def contradictions(attributes):
    """Texts such as "Bald and Bangs" for those of the attributes that no face has together."""
    pairs = exclusions(attributes).triu().nonzero().tolist() if attributes else []
    return [f"{attributes[a]} and {attributes[b]}" for a, b in pairs]


def resampled(attributes, least, size):
    """Rows of attributes (N, A) of 0 and 1, `size` of them, repeated so that no attribute is rare or near universal.

    Iterative proportional fitting: the weights nearest to equal ones with which each attribute is in at least a share
    `least` of the rows, and missing in as many; then systematic sampling, the same at every call. An attribute that no
    row has (or all have) is left alone.
    """
    a = attributes.double()
    weight = torch.full((len(a),), 1 / len(a), dtype=torch.float64)
    for _ in range(100):
        for k in range(a.shape[1]):
            share = weight @ a[:, k]
            target = share.clamp(least, 1 - least)
            if 0 < share < 1:
                weight = weight * torch.where(a[:, k] == 1, target / share, (1 - target) / (1 - share))
    marks = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    return torch.searchsorted((weight.cumsum(0) / weight.sum()), marks).clamp(max=len(a) - 1)
