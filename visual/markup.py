"""Pieces of HTML pages that open from disk: pictures are inside, nothing is fetched, no scripts."""

from __future__ import annotations

import base64
import re
from html import escape
from pathlib import Path
from typing import Sequence

from options.files import atomic_write
from options.errors import UserError

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem 1.25rem 3rem; color: #1e1e1e; background: #fff;
       font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; overflow-wrap: anywhere; }
p { max-width: 46rem; } img, svg { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; } .scroll img { max-width: none; }
.scroll svg, .scroll .fit { max-width: 100%; min-width: 36rem; } .scroll .fit { min-width: 56rem; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
td:first-child { white-space: normal; min-width: 12rem; }
pre { background: #f4f4f4; padding: .6rem .8rem; overflow-x: auto; font-size: .82rem; line-height: 1.45; }
details summary { cursor: pointer; color: #444; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .6rem;
       max-width: 62rem; }
.key { display: inline-block; width: .7rem; height: .7rem; margin: 0 .3rem 0 .6rem; }
figure { margin: 0; padding: .3rem; border: 2px solid #bbb; border-radius: .3rem; min-width: 0; }
figcaption { font-size: .85rem; line-height: 1.35; overflow-wrap: anywhere; }
.right { border-color: #00703a; } .right b { color: #00703a; }
.wrong { border-color: #be001e; } .wrong b { color: #be001e; }
small { color: #555; }
"""

# A browser that follows it fetches nothing and runs nothing, whatever the page says.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
IMAGE_TYPES = {".png": "image/png", ".gif": "image/gif"}


def image(content: bytes, kind: str, text: str, attributes: str = "") -> str:
    """An ``<img>`` with its content inside; ``kind`` is .png or .gif, ``text`` says what it shows."""
    data = base64.b64encode(content).decode()
    return f'<img src="data:{IMAGE_TYPES[kind]};base64,{data}" alt="{escape(text)}"{attributes}>'


def wide_image(path: Path, text: str, fit: bool = False) -> str:
    """An image in a box that scrolls; ``fit``: made smaller, within reason, where it is too wide."""
    picture = image(path.read_bytes(), path.suffix, text, ' class="fit"' if fit else "")
    return f'<div class="scroll">{picture}</div>'


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its header; it scrolls where the window is narrow."""
    lines = ["".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)
             for row, tag in zip(rows, ["th", *["td"] * len(rows)])]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table>\n{body}\n</table></div>'


def commands(lines: Sequence[str], title: str = "The command that made it") -> str:
    """Command lines, folded away."""
    if not lines:
        return ""
    text = escape("\n".join(lines))
    return f"<details><summary>{escape(title)}</summary><pre>{text}</pre></details>"


def section(title: str, *parts: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(filter(None, parts)) + "\n</section>"


def page(title: str, *parts: str) -> str:
    """A whole page in UTF-8."""
    body = "\n".join(filter(None, parts))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def main_part(path: Path) -> str:
    """What stands on a page of ours below its title, to be part of another page."""
    found = re.search(r"<main>\n(.*)\n</main>", path.read_text(encoding="utf-8"), re.DOTALL)
    if not found:
        raise UserError(f"{path} is no page of this program; remove it or make it again")
    return found[1]


def save_page(path: Path, text: str) -> None:
    atomic_write(path, lambda file: file.write(text.encode()))
