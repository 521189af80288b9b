"""HTML pages from the templates in ``visual/templates``.

A page opens from disk: pictures are embedded, nothing is downloaded, and there are no scripts.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import UserError
from utils.files import atomic_write
from utils.standard_streams import encodable

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")
MEDIA_TYPES = {".png": "image/png", ".gif": "image/gif", ".svg": "image/svg+xml"}


def data_uri(content: bytes, suffix: str) -> str:
    """Return an image as a URI for the ``src`` of an ``<img>``; ``suffix`` is .png, .gif or .svg."""
    return f"data:{MEDIA_TYPES[suffix]};base64,{base64.b64encode(content).decode()}"


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill a template and write the page, atomically. All values except ``Markup`` are escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(values)
    atomic_write(path, lambda file: file.write(encodable(text).encode()))


def main_part(path: Path) -> Markup:
    """Return the content of ``<main>`` of a page that ``write_page`` wrote, to embed it in another page."""
    from markupsafe import Markup

    found = re.search(r"<main>\n(.*)</main>", path.read_text(encoding="utf-8"), re.DOTALL)
    if not found:
        raise UserError(f"{path} was not written by this code base; remove it or generate it again")
    return Markup(found[1])
