"""All randomness is a function of (seed, purpose, position): a resumed run draws what it would have."""

from __future__ import annotations

import secrets

import numpy as np
import torch

# What a stream of random numbers is for. The numbers are part of what a seed means.
ORDER, VIEWS, WEIGHTS, DROPOUT, LABELS, PICTURES = range(6)


def generator(seed: int, purpose: int, *position: int) -> torch.Generator:
    """A fresh generator on the CPU for one purpose at one position, e.g. (epoch, step)."""
    words = np.random.SeedSequence([seed, purpose, *position]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))


def choose_seed(seed: int | None) -> int:
    """The seed given, or one drawn now and printed, so that any run can be repeated."""
    if seed is None:
        seed = secrets.randbelow(2**31)
        print(f"seed {seed} (drawn; --seed {seed} repeats this run)")
    return seed


def seed_globally(seed: int, purpose: int, *position: int) -> None:
    """Seed torch's own generators, which initialise weights and drop out units."""
    words = generator(seed, purpose, *position).initial_seed()
    torch.manual_seed(words)
    for index in range(1, torch.cuda.device_count()):  # replicas must not drop the same units
        with torch.cuda.device(index):
            torch.cuda.manual_seed(words + index)
