"""The packages that only drawing needs: whether they can be loaded here, and how to get them.

    python -m visual.packages              exit code 0 where all can, else 1 and what is missing
    python -m visual.packages skeletons    torchvision and Pillow; plots: matplotlib
    python -m visual.packages --install    install what is missing, and leave PyTorch as it is

Everything else in this project runs without them.
"""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys

import torch

from options.errors import UserError, run_script

SKELETONS, PLOTS = "skeletons", "plots"
MODULES = {SKELETONS: ("torchvision.utils", "PIL.ImageFont"), PLOTS: ("matplotlib",)}
PIP_NAMES = {"torchvision": "torchvision", "PIL": "pillow>=10.1", "matplotlib": "matplotlib>=3.6"}


def matching_torchvision(torch_version: str) -> str:
    """The release of torchvision made for a PyTorch 2.x: 0.29.1 for 2.14.1, 0.17.0 for 2.2.0."""
    _, minor, patch = re.match(r"(\d+)\.(\d+)\.(\d+)", torch_version).groups()
    return f"0.{int(minor) + 15}.{patch}"


def load_error(module: str) -> str | None:
    """Why ``module`` cannot be used here; None where it can."""
    try:
        loaded = importlib.import_module(module)
    except Exception as error:  # a torchvision of another PyTorch raises RuntimeError
        return str(error).splitlines()[0][:100] if str(error) else type(error).__name__
    for name, function, parameter, reason in (
        ("torchvision.utils", "draw_keypoints", "visibility", "it is older than 0.18, of PyTorch 2.3"),
        ("PIL.ImageFont", "load_default", "size", "it is older than 10.1"),
    ):
        if module == name and parameter not in inspect.signature(getattr(loaded, function)).parameters:
            return reason
    return None


def why_not(kind: str) -> str | None:
    """None where ``kind`` of drawing works here, else what is missing and how to install it."""
    for module in MODULES[kind]:
        package = module.split(".")[0]
        if reason := load_error(module):
            advice = "python -m visual.packages --install"
            if package == "torchvision":
                version = matching_torchvision(torch.__version__)
                advice += f", or torchvision {version} from where your PyTorch came"
            return f"drawing {kind} needs {package}, which cannot be loaded ({reason}): {advice}"
    return None


def require(flag: str, kind: str) -> None:
    """Refuse ``flag`` before any work where what it draws with is missing."""
    if reason := why_not(kind):
        raise UserError(f"{flag}: {reason}; or leave {flag} out")


def install() -> None:
    """Install what cannot be loaded. torchvision would bring a PyTorch of its own: without it."""
    missing = {module.split(".")[0] for kind in MODULES.values() for module in kind if load_error(module)}
    torchvision = missing & {"torchvision"}
    pinned = [f"torchvision=={matching_torchvision(torch.__version__)}"] if torchvision else []
    others = [PIP_NAMES[name] for name in sorted(missing - torchvision)]
    for what in (["--no-deps", *pinned] if pinned else [], others):
        if what and subprocess.run([sys.executable, "-m", "pip", "install", *what]).returncode:
            raise UserError(f"pip could not install {' '.join(what)}; its messages are above")


def main() -> int:
    arguments = sys.argv[1:]
    if arguments == ["--install"]:
        install()
        arguments = []
    unknown = [word for word in arguments if word not in MODULES]
    if unknown:
        raise UserError(f"{unknown[0]}: give --install, or any of {', '.join(MODULES)}")
    importlib.invalidate_caches()
    reasons = [reason for kind in arguments or MODULES if (reason := why_not(kind))]
    for reason in reasons:
        print(reason)
    return int(bool(reasons))


if __name__ == "__main__":
    run_script(main)
