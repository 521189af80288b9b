"""The second retrieval metric of the official code: nearest neighbors of autoencoder codes.

An autoencoder with layers D-1024-512-125 and tanh between them learns to reconstruct the training
features with Adam and the mean squared error. Retrieval then compares 125-dimensional codes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from .randomness import ORDER, WEIGHTS, generator, seed_globally

HIDDEN = (1024, 512, 125)
EPOCHS, LEARNING_RATE = 400, 1e-3
DECAY, DECAY_EPOCHS = 0.95, 50  # per epoch, although the official code calls the interval "steps"
CODE_BLOCK = 4096  # clips encoded at a time


def linear_layers(sizes: list[int]) -> nn.Sequential:
    """Build linear layers between ``sizes``, with tanh after each except the last."""
    layers: list[nn.Module] = []
    for before, after in zip(sizes, sizes[1:]):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class Autoencoder(nn.Module):
    """Maps features ``(N, D)`` to codes ``(N, 125)`` and back."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        sizes = [num_features, *HIDDEN]
        self.encoder = nn.Sequential(linear_layers(sizes), nn.Tanh())
        self.decoder = linear_layers(sizes[::-1])

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct features."""
        return self.decoder(self.encoder(x))


def train_autoencoder(
    features: Tensor, batch_size: int, seed: int, print_freq: int, epochs: int | None = None
) -> Autoencoder:
    """Train an autoencoder on ``features`` (N, D); prints the mean loss every ``print_freq`` epochs.

    ``epochs`` defaults to ``EPOCHS``.
    """
    epochs = EPOCHS if epochs is None else epochs
    seed_globally(seed, WEIGHTS, 2)
    model = Autoencoder(features.shape[1]).to(features.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, DECAY_EPOCHS, DECAY)
    for epoch in tqdm(range(epochs), desc="autoencoder", leave=False, disable=None, unit="epoch"):
        total = torch.zeros((), device=features.device)
        order = torch.randperm(len(features), generator=generator(seed, ORDER, epoch))
        for index in order.to(features.device).split(batch_size):
            x = features[index]
            loss = F.mse_loss(model(x), x)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(x)
        schedule.step()
        if (epoch + 1) % print_freq == 0 or epoch + 1 == epochs:
            tqdm.write(f"autoencoder epoch {epoch:3d}/{epochs}  loss {total.item() / len(features):.6f}")
    return model.eval()


@torch.no_grad()
def encode(model: Autoencoder, features: Tensor) -> Tensor:
    """Compute codes, ``(N, D) -> (N, 125)``, in blocks because the hidden layers are large."""
    return torch.cat([model.encoder(block) for block in features.split(CODE_BLOCK)])
