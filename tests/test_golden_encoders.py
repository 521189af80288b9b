"""Encoders against features and outputs of the official code, in evaluation mode."""

import numpy as np
import torch
from conftest import golden, tensors

from models.graph import spatial_adjacency
from models.registry import build_encoder


def check(encoder, arrays):
    encoder.load_state_dict(tensors(arrays, "weights/"))
    encoder.eval()
    x = torch.tensor(arrays["input"])
    with torch.no_grad():
        found = {"features": encoder.forward_features(x), "output": encoder(x)}
    for name, value in found.items():
        scale = np.abs(arrays[name]).max()
        np.testing.assert_allclose(value.numpy(), arrays[name], rtol=1e-5, atol=1e-5 * scale)


def test_gru():
    check(build_encoder("seq-based", 16, gru_hidden_size=48), golden("gru_hidden48"))


def test_hcn():
    check(build_encoder("image-based", 16), golden("hcn"))


def test_agcn():
    arrays = golden("agcn")
    np.testing.assert_allclose(spatial_adjacency().numpy(), arrays["adjacency"], atol=1e-7)
    check(build_encoder("graph-based", 16), arrays)
