"""Encoders against features and outputs of the official code of the paper and of CMD, in evaluation mode."""

import numpy as np
import torch
from conftest import golden, tensors

from facts.skeletons import KINECT_V2
from models.cmd import convert_checkpoint
from models.graph import spatial_adjacency
from models.registry import build_encoder, lay_out


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


def test_gru_with_input_norm_on_the_streams_of_cmd():
    arrays = golden("features_cmd")
    checkpoint = convert_checkpoint({"state_dict": tensors(golden("moco_cmd_mlp"), "state4/")})
    sizes, state = checkpoint["sizes"], checkpoint["state_dict"]
    batch = torch.tensor(arrays["input"]).permute(0, 2, 3, 1, 4)
    names = {"joint": "seq-based", "motion": "seq-based:motion", "bone": "seq-based:bone"}
    for stream, name in names.items():
        encoder = build_encoder(name, 16, **sizes).eval()
        prefix = f"encoders.query.{name}."
        encoder.fc = torch.nn.Identity()
        encoder.load_state_dict(
            {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix) and ".fc." not in k}
        )
        found = encoder.forward_features(lay_out(batch, [name], KINECT_V2)[name])
        np.testing.assert_allclose(found.detach().numpy(), arrays[f"features/{stream}"], rtol=1e-5, atol=1e-6)
