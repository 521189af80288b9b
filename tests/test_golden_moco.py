"""Four training steps, compared number by number with the official code of the paper and of CMD."""

import numpy as np
import pytest
import torch
from conftest import golden, tensors
from torch import nn

from facts.skeletons import KINECT_V2
from moco.losses import InfoNCE, NeighborDistillation
from moco.model import MoCo
from models.cmd import convert_checkpoint, convert_state
from models.registry import build_encoder, lay_out

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


def close(found, expected, name=""):
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5, atol=1e-5, err_msg=name)


def optimizer_of(model):
    return torch.optim.SGD(model.encoders.query.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)


@pytest.mark.parametrize("mlp", [False, True])
@pytest.mark.parametrize("contrast", ["inter", "intra"])
def test_four_steps_match_the_official_code(contrast, mlp):
    arrays = golden(f"moco_{contrast}" + ("_mlp" if mlp else ""))
    inter = contrast == "inter"
    sizes = {"a": 12, "b": 10} if inter else {"a": 12}
    objectives = [InfoNCE(tuple(sizes), contrast)]
    model = MoCo(list(sizes), lambda name, dim: TinyEncoder(sizes[name], dim), objectives, 8, 24, 0.9, mlp)
    model.load_state_dict(converted_state(arrays, 0))
    optimizer = optimizer_of(model)
    for step in range(4):
        loss, outcome = model(views(arrays, step, 1, inter), views(arrays, step, 2, inter))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        names = ["logits_s1", "logits_s2"] if inter else ["logits"]
        for name, value in zip(names, outcome.logits.values()):
            close(value, arrays[f"step{step}/{name}"])
        np.testing.assert_allclose(loss.item(), arrays[f"step{step}/loss"], rtol=1e-5)
        state = model.state_dict()
        for name, value in converted_state(arrays, step + 1).items():
            close(state[name], value, name)


CMD_NAMES = {"joint": "seq-based", "motion": "seq-based:motion", "bone": "seq-based:bone"}


def cmd_views(x):
    """The input of the three encoders from official inputs ``(N, 3, T, V, M)``."""
    return lay_out(x.permute(0, 2, 3, 1, 4), [*CMD_NAMES.values()], KINECT_V2)


def with_key_encoders(state):
    """The untrained official model: key encoders are copies of the query encoders."""
    return state | {k.replace("encoder_q", "encoder_k"): v for k, v in state.items() if "encoder_q" in k}


@pytest.mark.parametrize("mlp", [False, True])
def test_four_steps_match_the_official_code_of_cmd(mlp):
    arrays = golden("moco_cmd_mlp" if mlp else "moco_cmd")
    official = with_key_encoders(tensors(arrays, "state0/"))
    names = tuple(CMD_NAMES.values())
    objectives = [InfoNCE(names, "intra"), NeighborDistillation(names, "inter", distill_neighbors=10)]
    checkpoint = convert_checkpoint({"state_dict": official})
    sizes, flags = checkpoint["sizes"], checkpoint["flags"]
    dim, queue = flags["moco_dim"], flags["moco_k"]
    assert (flags["mlp"], dim, queue) == (mlp, 16, 24)
    model = MoCo(names, lambda name, dim: build_encoder(name, dim, **sizes), objectives, dim, queue, 0.9, mlp)
    model.load_state_dict(checkpoint["state_dict"])
    optimizer = optimizer_of(model)
    for step in range(4):
        expected = tensors(arrays, f"step{step}/")
        loss, outcome = model(cmd_views(expected["input_query"]), cmd_views(expected["input_key"]))
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            gradients = convert_state(tensors(arrays, "grad0/"))
            assert len(gradients) == (3 * 22 if mlp else 0)
            for name, gradient in gradients.items():
                close(model.get_parameter(name).grad, gradient, name)
        optimizer.step()
        for stream, name in CMD_NAMES.items():
            close(outcome.logits[name, name], expected[f"logits_{stream}"])
        close(outcome.terms["distillation"], expected["loss_distillation"])
        close(loss, expected["loss"])
    state = model.state_dict()
    last = convert_state(tensors(arrays, "state4/"))
    assert last.keys() == state.keys()
    for name, value in last.items():
        close(state[name], value, name)
