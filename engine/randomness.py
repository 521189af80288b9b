"""Random numbers as a function of (seed, purpose, position), so a resumed run samples the same numbers."""

from __future__ import annotations

import secrets

import numpy as np
import torch

# The purposes of random numbers. Changing this order changes what a seed reproduces.
ORDER, VIEWS, WEIGHTS, DROPOUT, LABELS, PICTURES, MONITOR = range(7)


def generator(seed: int, purpose: int, *position: int) -> torch.Generator:
    """Return a new CPU generator for one purpose at one position, e.g. (epoch, step)."""
    words = np.random.SeedSequence([seed, purpose, *position]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))


def choose_seed(given: int | None, stored: int | None = None) -> int:
    """Return the given seed, that of the run that is resumed, or a random one, which is printed."""
    seed = stored if given is None else given
    if seed is None:
        seed = secrets.randbelow(2**31)
        print(f"seed {seed} (random; use --seed {seed} to reproduce)")
    return seed


def seed_globally(seed: int, purpose: int, *position: int) -> None:
    """Seed PyTorch's global generators, which initialize weights and sample dropout masks.

    GPU i is seeded differently from the others, so that replicas do not drop the same units. The
    generators are reached without making their GPU current, which would open a context (hundreds
    of MB) on GPUs that the run does not use. They exist once CUDA is in use.
    """
    words = generator(seed, purpose, *position).initial_seed()
    torch.manual_seed(words)
    for index, gpu_generator in enumerate(torch.cuda.default_generators):
        gpu_generator.manual_seed(words + index)
