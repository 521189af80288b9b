"""How each representation lays out a view ``(N, T, V, 3, M)`` for its encoder."""

from __future__ import annotations

from torch import Tensor


def sequence_layout(batch: Tensor) -> Tensor:
    """``(N, T, V, 3, M) -> (N, T, 150)``: joint, coordinate, person."""
    return batch.flatten(start_dim=2)


def grid_layout(batch: Tensor) -> Tensor:
    """``(N, T, V, 3, M) -> (N, 3, T, V, M)``: the graph's and the image's."""
    return batch.permute(0, 3, 1, 2, 4).contiguous()


LAYOUTS = {
    "seq-based": sequence_layout, "graph-based": grid_layout, "image-based": grid_layout,
}


def lay_out(batch: Tensor, representations: tuple[str, ...]) -> dict[str, Tensor]:
    """The same batch in the layout of each representation."""
    # Representations that share a layout share the tensor.
    made = {layout: layout(batch) for layout in {LAYOUTS[name] for name in representations}}
    return {name: made[LAYOUTS[name]] for name in representations}
