"""Four training steps of contrastive learning, compared number by number with the official code."""

import numpy as np
import pytest
import torch
from conftest import golden
from torch import nn

from moco.model import MoCo, inter_pairs, intra_pairs

# Query and key encoders of the official code -> names here; "a" and "b" are the two representations.
ENCODERS = {
    "encoder_q": "encoders.query.a",
    "encoder_k": "encoders.key.a",
    "encoder_r": "encoders.query.b",
    "encoder_l": "encoders.key.b",
}


class TinyEncoder(nn.Module):
    def __init__(self, inputs, dim):
        super().__init__()
        self.body, self.fc = nn.Linear(inputs, 16), nn.Linear(16, dim)

    def forward(self, x):
        return self.fc(torch.tanh(self.body(x)))


def converted_state(arrays, step):
    """The official state dict before ``step`` with the names used here; official queues are (dim, size)."""
    state = {}
    for name, value in arrays.items():
        if not name.startswith(f"state{step}/"):
            continue
        name, value = name.split("/")[1], torch.tensor(value)
        head, _, rest = name.partition(".")
        queue = "queues.b." if name.endswith("S2") else "queues.a."
        if head in ENCODERS:
            state[f"{ENCODERS[head]}.{rest}"] = value
        elif "ptr" in name:
            state[queue + "pointer"] = value
        else:
            state[queue + "keys"] = value.t().contiguous()
    return state


def views(arrays, step, number, inter):
    """The inputs of query (``number`` 1) or key (2) encoders in ``step``."""
    if inter:
        names = {"a": "s1", "b": "s2"}
        return {x: torch.tensor(arrays[f"step{step}/input_{s}_v{number}"]) for x, s in names.items()}
    return {"a": torch.tensor(arrays[f"step{step}/input_v{number}"])}


@pytest.mark.parametrize("mlp", [False, True])
@pytest.mark.parametrize("contrast", ["inter", "intra"])
def test_four_steps_match_the_official_code(contrast, mlp):
    arrays = golden(f"moco_{contrast}" + ("_mlp" if mlp else ""))
    inter = contrast == "inter"
    sizes = {"a": 12, "b": 10} if inter else {"a": 12}
    pairs = (inter_pairs if inter else intra_pairs)(list(sizes))
    model = MoCo(list(sizes), lambda name, dim: TinyEncoder(sizes[name], dim), pairs, 8, 24, 0.9, 0.07, mlp)
    model.load_state_dict(converted_state(arrays, 0))
    optimizer = torch.optim.SGD(model.encoders.query.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    for step in range(4):
        loss, logits = model(views(arrays, step, 1, inter), views(arrays, step, 2, inter))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        names = ["logits_s1", "logits_s2"] if inter else ["logits"]
        for name, value in zip(names, logits):
            expected = arrays[f"step{step}/{name}"]
            np.testing.assert_allclose(value.detach().numpy(), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(loss.item(), arrays[f"step{step}/loss"], rtol=1e-5)
        state = model.state_dict()
        for name, value in converted_state(arrays, step + 1).items():
            np.testing.assert_allclose(state[name].numpy(), value.numpy(), rtol=1e-5, atol=1e-5, err_msg=name)
