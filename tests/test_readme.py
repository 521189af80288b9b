"""Every command of the README runs as printed, but for its size, in the order of the page."""

import importlib
import io
import os
import re
import shlex
import subprocess
import sys
import zipfile
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from conftest import GOLDEN, TINY_FLAGS

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")

# What no test runs, and who does: it needs a network, or several GPUs, or is the suite itself.
ELSEWHERE = {
    "bash script_test.sh": "CI",
    "python3 -m venv my_environment && source my_environment/bin/activate": "CI, in a folder of its own",
    "python -m pip install torch==2.13.0": "CI",
    "python -m pip install -r requirements.txt": "CI",
    "cd data_gen": "run as one with the line below it",
}
PRETRAIN = ["--epochs", 1, "--batch-size", 4, "--moco-k", 16, "--seed", 1, *TINY_FLAGS]
SMALLER = {  # script -> flags that are added: argparse takes the last of a repeated flag
    "main_moco_inter_skeleton.py": PRETRAIN,
    "action_classification.py": ["--epochs", 1],
    "action_retrieval.py": [],
    "extract_features.py": [],
    "ntu_gendata.py": ["--data_path", "raw", "--out_folder", "out/ntu60"],
    "data_gen/ntu_gendata.py": ["--dry-run"],
    "reproduce_tables.py": ["--dry-run"],
}


def blocks(language=""):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands():
    """The lines of the shell blocks, those that end in a backslash joined."""
    found = []
    for block in blocks():
        lines = block.replace("\\\n", " ").splitlines()
        if lines and re.match(r"(CUDA_VISIBLE_DEVICES=\S+ |QUICK=1 )?(bash|python3?|cd) ", lines[0]):
            found += [" ".join(line.split()) for line in lines]
    return found


@pytest.fixture
def home(run, small_store, tmp_path):
    """A folder with a store, raw files and recordings, in which scripts of the repository run."""
    names = ("S008C002P012R001A009", "S019C002P046R001A066")
    for folder in ("raw", "recordings"):
        (tmp_path / folder).mkdir()
        with zipfile.ZipFile(GOLDEN / "ntu_skeletons.zip") as archive:
            for name in names:
                (tmp_path / folder / f"{name}.skeleton").write_bytes(archive.read(f"{name}.skeleton"))
    os.chdir(tmp_path)
    return tmp_path


def run_python(run, command):
    script, *rest = shlex.split(command.split(">")[0])
    module = script.removesuffix(".py").replace("/", ".")
    module = module if (REPOSITORY / script).exists() else f"data_gen.{module}"
    code, out, err = run(f"{module}.py", *rest, *SMALLER[script])
    assert code == 0, (command, err)
    return out


def test_every_command(run, home, monkeypatch):
    monkeypatch.setenv("DRY_RUN", "1")  # the scripts of blocks print their commands; others do not look
    done = set()
    for command in commands():
        done.add(command)
        command = re.sub(r"^CUDA_VISIBLE_DEVICES=\S+ ", "", command)
        if command in ELSEWHERE:
            continue
        if command.startswith("bash script_demo.sh"):
            continue  # test_the_demo
        if command.startswith("bash "):
            subprocess.run([*shlex.split(command)], cwd=REPOSITORY, check=True, capture_output=True)
        elif command.startswith("python -m torch.distributed.run "):
            flags = command.split("main_moco_inter_skeleton.py ")[1]  # two processes: test_distributed
            run_python(run, f"main_moco_inter_skeleton.py {flags}")
        elif command.startswith("python -m visual.clips "):
            monkeypatch.setattr(sys, "argv", ["clips", *shlex.split(command)[3:], "--name", "S001C002P001R001A001"])
            module = importlib.import_module("visual.clips")
            assert module.main() == 0 and list((home / "runs/clips").glob("*_views.gif"))
        elif "_0450.pth.tar" in command:
            made = home / "checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based"
            for path in (made / "checkpoint_0450.pth.tar", home / "checkpoint_0450.pth.tar"):
                path.write_bytes((made / "checkpoint_0000.pth.tar").read_bytes())
            run_python(run, command.removeprefix("python "))
        else:
            run_python(run, command.removeprefix("python "))
    missing = ELSEWHERE.keys() - done
    assert len(done) > 15 and not missing, missing


def test_the_use_from_python(run, home):
    code, _, err = run("main_moco_inter_skeleton.py", *PRETRAIN, "--checkpoint-path", home)
    assert code == 0, err
    (home / "checkpoint_0000.pth.tar").rename(home / "checkpoint_0450.pth.tar")
    (example,) = blocks("python")
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(example, "README", "exec"), {})
    assert "S008C002P012R001A009" in printed.getvalue() and "[2, 32]" in printed.getvalue()


def test_commands_in_tables_name_scripts_and_flags_that_exist(run, home):
    """Of commands with places to fill in: the script's help has the flags."""
    named = re.findall(r"`(?:python )?((?:\w+/)?\w+\.py) ([^`]*--[^`]*)`", README)
    assert len(named) >= 5
    for script, text in named:
        code, out, _ = run(script.replace("/", "."), "--help")
        flags = re.findall(r"--[\w-]+", text)
        assert code == 0 and all(re.search(rf"{flag.replace('_', '[_-]')}\b", out) for flag in flags), (script, flags)


def test_flags_named_in_the_text_exist(run):
    """Every --flag of the page is one of some script."""
    helps = ""
    for script in ("main_moco_inter_skeleton", "action_classification", "action_retrieval", "extract_features",
                   "reproduce_tables", "visual.clips", "benchmarks.step", "data_gen.ntu_gendata", "data_gen.pku_gendata", "data_gen.arrays_gendata"):
        helps += run(f"{script}.py", "--help")[1]
    foreign = {"--nproc-per-node", "--logdir", "--install"}
    known = set(re.findall(r"--[\w-]+", helps)) | foreign
    known |= {flag.replace("-", "_").replace("__", "--", 1) for flag in known}
    assert set(re.findall(r"--[a-z][\w-]*", README)) - known == set()


def test_files_and_links_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (REPOSITORY / target).exists(), target
    for name in re.findall(r"`([\w/]+\.(?:py|sh))`", README):
        places = [REPOSITORY, REPOSITORY / "models"]
        assert any((place / name).exists() for place in places), name


def test_the_demo(tmp_path):
    """Every step of the demo, on a quarter of the clips and for an epoch."""
    environment = {**os.environ, "QUICK": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    copy = tmp_path / "copy"
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git checkout to copy the program from")
    for name in listed.stdout.split():
        if not name.startswith("tests/"):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((REPOSITORY / name).read_bytes())
    done = subprocess.run(["bash", "script_demo.sh"], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = copy / "runs/demo_quick"
    table = (runs / "table.md").read_text()
    for row in ("| normalised coordinates", "| inter-skeleton seq-based_and_graph-based, 1 epochs", "| untrained"):
        assert re.search(re.escape(row) + r".* \d+\.\d", table), table
    page = (runs / "index.html").read_text()
    assert "main_moco_inter_skeleton.py" in page
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//|url\(["']?(?:https?:)?//""", page)
    for heading in ("Results", "Curves", "Augmented views", "Retrieval gallery", "Feature map", "Confusion matrix"):
        assert f">{heading}</h2>" in page, heading
