"""The commands of README.md and docs/ run as printed, at a small size; flags, files and links exist."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN, TINY_FLAGS

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8")
    for path in (*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"))
}
README, DATA_PAGE, OWN_DATA_PAGE = (PAGES[name] for name in ("README.md", "docs/data.md", "docs/own_data.md"))

# Not run here, because they need a network or are the test suite.
RUN_BY_CI = {
    "bash script_test.sh",
    "python3 -m venv .venv && source .venv/bin/activate",
    "python -m pip install -r requirements.txt",
    "python -m pip install torch --index-url https://download.pytorch.org/whl/cpu",
}
RUN_ELSEWHERE = {
    "bash script_demo.sh": "test_demo",
    "cd data_gen": "the next line is run",
}
CHECKPOINTS = "checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based"
PRETRAIN = ["--epochs", 1, "--batch-size", 4, "--moco-k", 16, "--seed", 1, *TINY_FLAGS]
SMALLER = {  # script -> flags to append; argparse uses the last of a repeated flag
    "main_moco_inter_skeleton.py": PRETRAIN,
    "main_moco_intra_skeleton.py": ["--steps", 2, *PRETRAIN],
    "action_classification.py": ["--epochs", 1],
    "action_retrieval.py": [],
    "extract_features.py": [],
    "predict.py": [],
    "data_gen/arrays_gendata.py": [],
    "data_gen/poses_gendata.py": [],
    "visual.clips": ["--num-frames", 4],
    "ntu_gendata.py": ["--data_path", "raw", "--out_folder", "out/ntu60"],
    "reproduce_tables.py": ["--dry-run"],
}


def blocks(page, language=""):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [block for kind, block in found if kind == language]


def commands(page):
    """The lines of the shell blocks, with continuation lines joined."""
    found = []
    for block in blocks(page):
        lines = block.replace("\\\n", " ").splitlines()
        if lines and re.match(r"(CUDA_VISIBLE_DEVICES=\S+ )?(bash|python3?|cd) ", lines[0]):
            found += [" ".join(line.split()) for line in lines]
    return found


@pytest.fixture
def home(run, small_store, tmp_path):
    """A folder with a store and skeleton files; the scripts run in it."""
    names = ("S008C002P012R001A009", "S019C002P046R001A066")
    for folder in ("raw", "skeletons"):
        (tmp_path / folder).mkdir()
        with zipfile.ZipFile(GOLDEN / "ntu_skeletons.zip") as archive:
            for name in names:
                (tmp_path / folder / f"{name}.skeleton").write_bytes(archive.read(f"{name}.skeleton"))
    shutil.copytree(REPOSITORY / "presets", tmp_path / "presets")
    ucla = shutil.copytree(tmp_path / "data" / "ntu60", tmp_path / "data" / "ucla")
    info = json.loads((ucla / "store.json").read_text())
    (ucla / "store.json").write_text(json.dumps({**info, "dataset": "ucla"}))
    return tmp_path


def run_python(run, command):
    """Run a Python script in this process, at a small size; its output."""
    script, *flags = shlex.split(re.sub(r"^python (-m )?", "", command).split(">")[0])
    known = "." in script.removesuffix(".py") or (REPOSITORY / script).exists()  # a module or a script
    name = script if known else f"data_gen/{script}"
    code, out, err = run(name.replace("/", "."), *flags, *SMALLER[script])
    assert code == 0, (command, err)
    return out


def test_commands_run_as_printed(run, home):
    done = set()
    for command in commands(README):
        done.add(command)
        command = re.sub(r"^CUDA_VISIBLE_DEVICES=\S+ ", "", command)
        if command in RUN_BY_CI or command in RUN_ELSEWHERE:
            continue
        if command.startswith("python -m torch.distributed.run "):  # two processes: test_distributed
            command = f"main_moco_inter_skeleton.py {command.split('main_moco_inter_skeleton.py ')[1]}"
        if "_0450.pth.tar" in command:
            checkpoint = (home / CHECKPOINTS / "checkpoint_0000.pth.tar").read_bytes()
            for folder in (home / CHECKPOINTS, home):
                (folder / "checkpoint_0450.pth.tar").write_bytes(checkpoint)
        run_python(run, command)
    missing = (RUN_BY_CI | RUN_ELSEWHERE.keys()) - done
    assert len(done) >= 12 and not missing, missing


def test_python_examples_run(run, home, capsys):
    code, _, err = run("main_moco_inter_skeleton.py", *PRETRAIN, "--checkpoint-path", home)
    assert code == 0, err
    (home / "checkpoint_0000.pth.tar").rename(home / "checkpoint_0450.pth.tar")
    store, features = blocks(DATA_PAGE, "python")
    exec(compile(store, "docs/data.md", "exec"), {})
    assert (home / "data/mine/store.json").is_file()
    exec(compile(features, "docs/data.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "S008C002P012R001A009" in printed and "[2, 32]" in printed
    np.save(home / "clip.npy", np.random.default_rng(0).normal(scale=0.3, size=(30, 25, 3, 1)))
    flags = ["--pretrained", "random", *TINY_FLAGS, "--epochs", 1, "--output-dir", home / "runs/linear"]
    assert run("action_classification.py", *flags)[0] == 0
    variables = {}
    exec(compile(blocks(README, "python")[0], "README.md", "exec"), variables)
    assert variables["features"].shape == (1, 32) and variables["probabilities"].shape == (1, 60)
    assert capsys.readouterr().out.strip() in variables["classifier"].class_names


def test_walk_through_runs_as_printed(run, home, capsys, monkeypatch):
    """docs/own_data.md, from arrays to the prediction and the exported model, on made-up clips."""
    rng = np.random.default_rng(0)
    names = [f"{name}-{i:02d}" for name in ("anna", "ben") for i in range(1, 11)]
    body = rng.normal(scale=0.3, size=(33, 3))
    for folder in ("poses", "clips", "new_poses", "new_clips", "."):
        (home / folder).mkdir(exist_ok=True)
        for name in names[:2] if "new" in folder else ["recording"] if folder == "." else names:
            np.save(home / folder / f"{name}.npy", body + rng.normal(scale=0.05, size=(90, 33, 3)))
    labels = ["0,walk", "1,wave", ",", "0,walk", "1,wave"] * 4
    rows = [f"{name},{label},{'val' if 'ben' in name else 'train'}" for name, label in zip(names, labels)]
    (home / "labeled.csv").write_text("\n".join(["name,label,class_name,cross_subject", *rows]))
    monkeypatch.setattr("data_gen.command_line.DATA_FOLDER", home / "data")
    done = [command for command in commands(OWN_DATA_PAGE) if run_python(run, command)]
    assert len(done) == 12
    assert {path.name for path in (home / "runs/mine/map").iterdir()} == {"tsne.png"}
    for name in ("predictions.csv", "timeline.json", "runs/mine/timelines/recording.png"):
        assert (home / name).stat().st_size > 100, name
    assert "walk" in (home / "predictions.csv").read_text()
    live, export = blocks(OWN_DATA_PAGE, "python")
    exec(compile(live, "live", "exec"), {})
    assert re.fullmatch(r"60 (walk|wave) \d+%\n75 .*\n90 .*\n", capsys.readouterr().out)
    variables = {}
    exec(compile(export, "export", "exec"), variables)
    view, x = (variables[name] for name in ("view", "x"))
    loaded = torch.jit.load("classifier.ts"), torch.jit.load("encoder.ts"), torch.export.load("encoder.pt2")
    torch.testing.assert_close(loaded[0](view), variables["classifier"](view))
    for module in (loaded[1], loaded[2].module()):
        torch.testing.assert_close(module(x), variables["encoder"](x), rtol=1e-5, atol=1e-6)


def test_commands_in_tables_name_existing_scripts_and_flags(run, home):
    """For commands with placeholders: the script's help contains the flags."""
    text = "\n".join(PAGES.values())
    named = set(re.findall(r"`(?:python )?((?:\w+/)?\w+\.py) ([^`]*--[^`]*)`", text))
    assert len(named) >= 5
    for script, arguments in named:
        code, out, _ = run(script.replace("/", "."), "--help")
        flags = re.findall(r"--[\w-]+", arguments)
        exist = [re.search(rf"{flag.replace('_', '[_-]')}\b", out) for flag in flags]
        assert code == 0 and all(exist), (script, flags)


def test_flags_exist(run):
    """Every --flag of the pages is a flag of some script."""
    scripts = [path.stem for path in REPOSITORY.glob("*.py")]
    scripts += [f"data_gen.{path.stem}" for path in REPOSITORY.glob("data_gen/*_gendata.py")]
    scripts += ["data_gen.synthetic.make_ntu", "engine.report", "visual.clips"]
    scripts += [
        f"benchmarks.{path.stem}"
        for path in REPOSITORY.glob("benchmarks/*.py")
        if path.stem not in ("reference", "timing")
    ]
    helps = "".join(run(f"{script}.py", "--help")[1] for script in scripts)
    known = set(re.findall(r"--[\w-]+", helps)) | {"--nproc-per-node", "--index-url", "--check"}
    known |= {flag.replace("-", "_").replace("__", "--", 1) for flag in known}
    for name, page in PAGES.items():
        page = page if name != "docs/own_data.md" else re.sub(r"(?s)```text.*?```", "", page)  # estimators
        assert set(re.findall(r"--[a-z][\w-]*", page)) - known == set(), name


def anchors(page):
    """The anchors of a page's headings, as GitHub derives them."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", sorted(PAGES))
def test_links_and_files_exist(name):
    folder = (REPOSITORY / name).parent
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[name]):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        assert not path or (folder / path).exists(), target
        if anchor:
            page = (folder / path).resolve().relative_to(REPOSITORY).as_posix() if path else name
            assert anchor in anchors(PAGES[page]), target
    if name == "CHANGELOG.md":  # also names files of the past
        return
    for file in re.findall(r"`([\w/]+\.(?:py|sh))`", PAGES[name]):
        assert any((REPOSITORY / folder / file).exists() for folder in ("", "data_gen")), file


def test_life_of_a_clip_names_existing_functions():
    rows = re.findall(r"^\| `([\w/]+\.py)` \| ([^|]*) \|", PAGES["docs/life_of_a_clip.md"], re.MULTILINE)
    assert len(rows) > 12
    for file, functions in rows:
        source = (REPOSITORY / file).read_text(encoding="utf-8")
        for name in re.findall(r"`(?:\w+\.)?(\w+)`", functions):
            assert re.search(rf"(?:def|class) {name}\b", source), (file, name)


def test_requirements_have_the_form_that_script_environment_parses():
    for line in (REPOSITORY / "requirements.txt").read_text().splitlines():
        assert re.fullmatch(r"[a-z0-9-]+>=\d+(\.\d+)*", line), line


def test_figure_of_the_method(run, home):
    output = home / "method.svg"
    flags = ["--data-root", home / "data", "--name", "S001C002P001R001A001", "--output", output]
    code, _, err = run("docs.draw_method.py", *flags)
    assert code == 0, err
    assert output.read_text().count("<path") > 100


def run_demo(copy, *folders):
    """Run the demo on a quarter of the clips and for one epoch, in a copy of the repository.

    Programs in ``folders`` come first on the PATH.
    """
    path = os.pathsep.join([*map(str, folders), str(Path(sys.executable).parent), os.environ["PATH"]])
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("needs a git checkout to copy the repository from")
    for name in listed.stdout.split():
        if not name.startswith("tests/"):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((REPOSITORY / name).read_bytes())
    environment = {**os.environ, "QUICK": "1", "PATH": path}
    return subprocess.run(
        ["bash", "script_demo.sh"], cwd=copy, env=environment, capture_output=True, text=True
    )


def test_demo(tmp_path):
    copy = tmp_path / "copy"
    done = run_demo(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = copy / "runs/demo_quick"
    table = (runs / "table.md").read_text()
    pretrained = "intra- and inter-skeleton seq-based_and_graph-based, 1 epoch"
    for encoder, representation in (
        ("normalized coordinates", "seq-based"),
        ("untrained", "seq-based"),
        (pretrained, "seq-based"),
        (pretrained, "seq-based_and_graph-based"),
    ):  # best and last of the linear probe, and retrieval
        assert re.search(
            rf"^\| {encoder} +\| {representation} .*(\| \d+\.\d +){{3}}\|$", table, re.MULTILINE
        ), table
    page = (runs / "index.html").read_text()
    assert "main_moco_inter_skeleton.py" in page
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//|url\(["']?(?:https?:)?//""", page)
    for heading in (
        "Results",
        "Pretraining",
        "Classifiers",
        "Augmented views",
        "Retrieval gallery",
        "Feature map",
        "Confusion matrix",
    ):
        assert f">{heading}</h2>" in page, heading


@pytest.mark.parametrize("step", ("coordinates", "concatenated"))
def test_demo_stops_if_a_step_in_the_background_fails(tmp_path, step):
    """All Python scripts of the demo are replaced by one that only fails in this step."""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin/python3"
    fake.write_text(
        f"""#!/usr/bin/env bash
        case "$*" in
            "- "*) exec "{sys.executable}" "$@" ;;  # script_environment.sh checks the requirements
            *ntu_gendata*) mkdir -p "${{@: -1}}"; echo S001C001P001R001A023,22 > "${{@: -1}}/clips.csv" ;;
            *action_retrieval*{step}*) echo "the cause"; exit 3 ;;
        esac
        """
    )
    fake.chmod(0o755)
    done = run_demo(tmp_path / "copy", fake.parent)
    assert done.returncode == 1 and done.stderr.endswith("the cause\n"), done.stdout + done.stderr
    assert "== results" not in done.stdout
