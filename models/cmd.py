"""Checkpoints of CMD (Mao et al., ECCV 2022): three sequence encoders, of joint, motion and bone streams.

Its official code names the query encoders ``encoder_q``, ``encoder_q_motion`` and ``encoder_q_bone``, the key
encoders ``encoder_k*``, and the queues ``queue*``. Parameters within an encoder have the names used here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from facts.skeletons import KINECT_V2, SKELETONS

from .gru import SEQUENCE

# In the order of the registry.
SUFFIXES = {"": SEQUENCE.name, "_bone": f"{SEQUENCE.name}:bone", "_motion": f"{SEQUENCE.name}:motion"}


def is_cmd(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict is that of CMD's model."""
    heads = {name.partition(".")[0] for name in state}
    return {f"encoder_q{suffix}" for suffix in SUFFIXES} <= heads


def convert_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the encoders and queues of CMD's model with the names of ``moco.model.MoCo``."""
    renamed: dict[str, Tensor] = {}
    for suffix, representation in SUFFIXES.items():
        modules = {
            f"encoder_q{suffix}.": f"encoders.query.{representation}.",
            f"encoder_k{suffix}.": f"encoders.key.{representation}.",
        }
        for old, new in modules.items():
            renamed |= {new + k.removeprefix(old): v for k, v in state.items() if k.startswith(old)}
        if f"queue{suffix}" in state:
            renamed[f"queues.{representation}.keys"] = state[f"queue{suffix}"].t().contiguous()
            renamed[f"queues.{representation}.pointer"] = state[f"queue_ptr{suffix}"]
    return renamed


def convert_checkpoint(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint of CMD in the format of a pretraining of this repository, without its optimizer.

    The sizes, the head and the skeleton of the clips follow from the shapes of the weights.
    """
    state = checkpoint["state_dict"]
    query = {k.removeprefix("encoder_q."): v for k, v in state.items() if k.startswith("encoder_q.")}
    hidden = [name for name in query if "weight_hh" in name]
    numbers = query["encoder.gru.weight_ih_l0"].shape[1]  # per frame
    fitting = [skeleton for skeleton in SKELETONS.values() if math.prod(skeleton.frame_shape) == numbers]
    head = next(reversed([v for k, v in query.items() if k.startswith("fc.") and v.dim() == 2]))
    queue = state.get("queue")
    return {
        "kind": "pretraining",
        "contrast": "CMD, intra",
        "representations": list(SUFFIXES.values()),
        "sizes": {
            "gru_hidden_size": query[hidden[0]].shape[1],
            "gru_num_layers": len(hidden) // 2,  # two directions
            "gru_input_norm": "batch" if "input_norm.weight" in query else "none",
        },
        "flags": {
            "mlp": "fc.2.weight" in query,
            "moco_dim": head.shape[0],
            "moco_k": 0 if queue is None else queue.shape[1],
        },
        "skeleton": (fitting or [KINECT_V2])[0].to_data(),
        "epoch": checkpoint.get("epoch", 0),
        "step": 0,
        "state_dict": convert_state(state),
    }
