"""One call that makes any encoder: ``build_encoder(representation, num_classes, **sizes)``."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import nn

from .agcn import CHANNEL_FACTORS, GraphEncoder
from .gru import GRUEncoder
from .hcn import HCNEncoder
from .stgcn import STGCNEncoder

GRAPH_ENCODERS = {"agcn": GraphEncoder, "stgcn": STGCNEncoder}


@dataclass(frozen=True)
class EncoderSizes:
    """Every size of every encoder; the defaults are the paper's (section 4.2)."""

    gru_hidden_size: int = 1024
    gru_num_layers: int = 3
    graph_encoder: str = "agcn"
    graph_width: int = 64
    graph_num_blocks: int = 10
    image_width: int = 64
    num_frames: int = 64

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "graph_encoder" and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.graph_encoder not in GRAPH_ENCODERS:
            raise ValueError(f"graph_encoder {self.graph_encoder!r}: choose from {[*GRAPH_ENCODERS]}")
        if self.graph_num_blocks > len(CHANNEL_FACTORS):
            raise ValueError(f"graph_num_blocks {self.graph_num_blocks}: at most {len(CHANNEL_FACTORS)}")
        if self.graph_width % 4:
            raise ValueError(f"graph_width {self.graph_width} must be a multiple of 4")


def build_seq_encoder(num_classes: int, sizes: EncoderSizes) -> nn.Module:
    return GRUEncoder(
        num_classes, hidden_size=sizes.gru_hidden_size, num_layers=sizes.gru_num_layers
    )


def build_graph_encoder(num_classes: int, sizes: EncoderSizes) -> nn.Module:
    encoder = GRAPH_ENCODERS[sizes.graph_encoder]
    return encoder(num_classes, width=sizes.graph_width, num_blocks=sizes.graph_num_blocks)


def build_image_encoder(num_classes: int, sizes: EncoderSizes) -> nn.Module:
    return HCNEncoder(num_classes, width=sizes.image_width, num_frames=sizes.num_frames)


BUILDERS = {
    "seq-based": build_seq_encoder,
    "graph-based": build_graph_encoder,
    "image-based": build_image_encoder,
}


def build_encoder(representation: str, num_classes: int, **sizes) -> nn.Module:
    """The encoder of one representation.

    Args:
        representation: ``seq-based`` (GRU), ``graph-based`` (A-GCN or ST-GCN), ``image-based`` (HCN).
        num_classes: outputs of its last layer ``fc``.
        sizes: any fields of ``EncoderSizes``.

    Returns:
        A module with ``num_features``, ``forward_features(x)`` and ``fc``. At the paper's sizes
        ``forward_features`` gives 2048 (seq), 256 (graph) or 4096 (image) numbers a clip.
    """
    if representation not in BUILDERS:
        raise ValueError(f"representation {representation!r}: choose from {[*BUILDERS]}")
    return BUILDERS[representation](num_classes, EncoderSizes(**sizes))
