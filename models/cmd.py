"""Checkpoints of CMD (Mao et al., ECCV 2022): three sequence encoders, of joint, motion and bone streams.

Its official code names the query encoders ``encoder_q``, ``encoder_q_motion`` and ``encoder_q_bone``, the key
encoders ``encoder_k*``, and the queues ``queue*``. Parameters within an encoder have the names used here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from facts.skeletons import KINECT_V2, SKELETONS, Skeleton

from .gru import SEQUENCE

SUFFIXES = {"": SEQUENCE.name, "_motion": f"{SEQUENCE.name}:motion", "_bone": f"{SEQUENCE.name}:bone"}


def is_cmd(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict is that of CMD's model."""
    heads = {name.partition(".")[0] for name in state}
    return {f"encoder_q{suffix}" for suffix in SUFFIXES} <= heads


def convert_cmd(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
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


def cmd_sizes(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], Skeleton]:
    """Return the encoder sizes that the shapes of CMD's weights reveal, and the skeleton of its clips."""
    prefix = "encoder_q.encoder.gru."
    gru = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    sizes = {
        "gru_hidden_size": gru["weight_hh_l0"].shape[1],
        "gru_num_layers": sum(name.startswith("weight_hh") for name in gru) // 2,  # two directions
        "gru_input_norm": "batch" if "encoder_q.input_norm.weight" in state else "none",
    }
    numbers = gru["weight_ih_l0"].shape[1]
    fitting = [skeleton for skeleton in SKELETONS.values() if math.prod(skeleton.frame_shape) == numbers]
    return sizes, (fitting or [KINECT_V2])[0]
