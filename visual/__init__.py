"""Pictures of clips and results.

- ``skeleton``: camera, limbs and rendered clips; ``pictures``: film strips, captions and GIFs of them
- ``clips``: a clip and its augmented views, as files and for TensorBoard
- ``gallery``: queries of retrieval and their nearest neighbors
- ``feature_map``: t-SNE maps; ``confusion``: confusion matrices; ``plots``: figures that they share
- ``page``: the report page of a folder; ``curves``: its charts; ``markup`` and ``templates/``: its HTML

Pillow, Matplotlib, Jinja2 and scikit-learn are imported when something is rendered: training and
evaluation work on a machine on which one of them cannot be loaded.
"""

from __future__ import annotations

import importlib

from utils.errors import UserError, first_line

LIBRARIES = {  # name -> module to import
    "Pillow": "PIL.Image",
    "Matplotlib": "matplotlib.figure",
    "Jinja2": "jinja2",
    "scikit-learn": "sklearn.manifold",
}


def load_error(library: str) -> str | None:
    """Return in one line why one of ``LIBRARIES`` cannot be loaded on this machine, None if it can."""
    try:
        importlib.import_module(LIBRARIES[library])
    except Exception as error:  # a broken installation raises more than ImportError
        return (
            f"{library} cannot be loaded ({first_line(error)}); install it with "
            "python -m pip install -r requirements.txt"
        )
    return None


def require_library(flag: str, library: str) -> None:
    """Raise ``UserError`` before any work if ``flag`` renders with a library that cannot be loaded."""
    if reason := load_error(library):
        raise UserError(f"{flag}: {reason}, or omit {flag}")
