"""What a CPU can prove of the steps that CUDA replays as graphs: each is a function of its tensors, and reads no host.

Every training runs its steps under a mode that refuses what a CUDA graph cannot hold: values read by the host, shapes
that depend on values, tensors made on the host or of numbers on the host.
"""

import copy
import functools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from trainings import TRAININGS, call, flags_of, modules_of, project_of

REFUSED = {
    "_local_scalar_dense",
    "nonzero",
    "nonzero_static",
    "masked_select",
    "scalar_tensor",
    "is_nonzero",
    "lift_fresh",
    "equal",
}


NOTHING_RANDOM = ("hyperencoder document", "deep_makeover best")


class Refuse(TorchDispatchMode):
    """Raises where a step reads a value, makes a tensor of numbers, or lets values decide a shape."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split(".")[0]
        assert name not in REFUSED, f"{name} inside a training step: the host waits, or a graph cannot hold it"
        if name in ("index", "index_put_", "index_put"):
            kinds = [index.dtype for index in args[1] if index is not None]
            assert not {torch.bool, torch.uint8} & set(kinds), f"{name} by a mask: its shape depends on values"
        return function(*args, **(kwargs or {}))


def state_of(thing, seen):
    """All networks, optimizers and lone tensors that a step can reach: its closure, arguments and what they hold."""
    if id(thing) in seen:
        return
    seen[id(thing)] = thing
    if isinstance(thing, (torch.nn.Module, torch.optim.Optimizer, torch.Tensor)):
        yield thing
    elif isinstance(thing, functools.partial):
        yield from state_of((thing.func, thing.args, thing.keywords), seen)
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from state_of(value, seen)
    elif isinstance(thing, (list, tuple)):
        for value in thing:
            yield from state_of(value, seen)
    elif callable(thing) and getattr(thing, "__closure__", None):
        for cell in thing.__closure__:
            try:
                yield from state_of(cell.cell_contents, seen)
            except ValueError:  # a cell that is still empty
                continue
    elif type(thing).__module__.split(".")[0] in project_names():
        yield from state_of(vars(thing), seen)


def project_names():
    return {project_of(name) for name in TRAININGS}


def values(part):
    """The tensors of a network, an optimizer or a tensor itself, copied."""
    if isinstance(part, torch.Tensor):
        return [part.detach().clone()]
    if isinstance(part, torch.nn.Module):
        return [value.clone() for value in part.state_dict().values()]
    return [v.clone() for state in part.state.values() for v in state.values() if torch.is_tensor(v)]


def restore(part, kept):
    if isinstance(part, torch.Tensor):
        with torch.no_grad():
            part.copy_(kept)
    else:
        part.load_state_dict(copy.deepcopy(kept))  # an optimizer would go on with these very tensors


@pytest.mark.parametrize("name", TRAININGS)
def test_a_step_is_a_function_of_its_tensors(name, faces, crowd, tmp_path, monkeypatch):
    faces = crowd if name.startswith("deep_makeover") else faces
    calls, draws = {"count": 0, "checked": 0}, name not in NOTHING_RANDOM

    def watched(step, device):
        parts = list(state_of(step, {}))

        def run(*tensors, **flags):
            calls["count"] += 1
            if calls["count"] <= 3:  # optimizers make their state in their first step
                return step(*tensors, **flags)
            before = [copy.deepcopy(p if torch.is_tensor(p) else p.state_dict()) for p in parts]

            def again(seed, **other):
                """The losses of the step from the same state, and all that it has come to: losses, and values."""
                for part, kept in zip(parts, before, strict=True):
                    restore(part, kept)
                torch.manual_seed(seed)
                with torch.device("meta"), Refuse():  # meta: what is made without naming a device does not fit the rest
                    losses = step(*tensors, **flags | other)
                return losses, [*losses.values(), *(value for part in parts for value in values(part))]

            def differ(**other):
                return not all(map(torch.equal, again(**dict(seed=0) | other)[1], found))

            for name, due in flags.items():
                if name.startswith("penal") and due:
                    found = again(0)[1]
                    assert differ(**{name: False}), "the penalty counts"
            losses, found = again(0)
            assert not differ(), "the same tensors and seed, and another result"
            assert differ(seed=1) == draws, "what is random depends on the seed"
            assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
            assert all(loss.dtype == torch.float32 for name, loss in losses.items() if "/" not in name), "bf16"
            calls["checked"] += 1
            return losses

        return run

    for module in modules_of(name):
        if module.__name__.split(".")[1] not in ("plumbing", "gan"):
            if hasattr(module, "replayed"):
                monkeypatch.setattr(module, "replayed", watched)
            if hasattr(module, "R1_EVERY"):
                monkeypatch.setattr(module, "R1_EVERY", 2)  # so that the lazy penalty is seen as well
    after = TRAININGS[name][1]
    small = ("--precision", "bf16", "--device", "cpu", "--sample_every", 1000, "--save_every", 1000)
    if after:
        call(after, flags_of(after, faces, tmp_path, *small, "--steps", 1))
        calls |= dict(count=0, checked=0)
    call(name, flags_of(name, faces, tmp_path, *small, "--steps", 5))
    assert calls["checked"] == 2
