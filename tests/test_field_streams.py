"""Output that cannot be written never ends a run before it has saved, and never hides the exit code."""

import os
import pty
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import CLASSIFICATION, INTER, PRETRAINING_FLAGS, TINY_FLAGS, log_lines

from engine.checkpoint import LAST, load_checkpoint
from engine.classifier import FINETUNE_FILE, PROBE_FILE
from engine.signals import EXIT_RESUMABLE

REPOSITORY = Path(__file__).resolve().parents[1]

RUNS = {  # script, flags, flag of the folder, checkpoint
    "probe": (CLASSIFICATION, ["--pretrained", "random"], "--output-dir", PROBE_FILE),
    "supervised": (CLASSIFICATION, ["--mode", "supervised"], "--output-dir", FINETUNE_FILE),
    "pretraining": (INTER, [*PRETRAINING_FLAGS, "--save-freq", "100000"], "--checkpoint-path", LAST),
}


def command(kind, store, folder, *flags):
    """The command line of a run that takes longer than any test."""
    script, settings, flag, _ = RUNS[kind]
    parts = [*settings, *TINY_FLAGS, "--seed", "1", "--epochs", "100000", "--data-root", store, flag, folder]
    return [sys.executable, str(REPOSITORY / script), *map(str, [*parts, *flags])]


def wait_for(condition):
    """Wait until ``condition()`` is true."""
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def has_epoch(folder):
    """Whether a run has finished an epoch."""
    return (folder / "log.jsonl").is_file() and log_lines(folder)


def in_terminal(script, condition):
    """Run a shell script in a terminal, press Ctrl-C when ``condition()`` is true, and wait for its end."""
    child, terminal = pty.fork()  # the child has the terminal as its controlling one
    if child == 0:
        os.environ["OMP_NUM_THREADS"] = "1"
        os.execvp("bash", ["bash", "-c", script])

    def drain():
        with suppress(OSError):  # the terminal was closed
            while os.read(terminal, 4096):
                pass

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    try:
        wait_for(condition)
        os.write(terminal, b"\x03")
    finally:
        os.waitpid(child, 0)
        reader.join(10)
        os.close(terminal)


@pytest.mark.parametrize("kind", RUNS)
def test_ctrl_c_that_also_ends_tee(run, small_store, tmp_path, kind):
    """A real Ctrl-C reaches the script and ``tee``; the script saves, and a resumed run finishes."""
    folder, code = tmp_path / "o", tmp_path / "code"
    parts = " ".join(f"'{part}'" for part in command(kind, small_store, folder))
    script = f"{{ trap : INT; {parts}; echo $? > {code}; }} | tee {tmp_path / 'log.txt'}"
    in_terminal(script, lambda: has_epoch(folder))
    wait_for(code.is_file)
    assert int(code.read_text() or -1) == EXIT_RESUMABLE
    saved = load_checkpoint(folder / RUNS[kind][3])
    assert (saved["epoch"], saved["step"]) >= (1, 0)

    script, settings, flag, _ = RUNS[kind]
    last = ["--seed", 1, "--epochs", saved["epoch"] + 1, "--resume", "auto"]
    ended, out, err = run(script, *settings, *TINY_FLAGS, "--data-root", small_store, flag, folder, *last)
    assert ended == 0 and f"epoch {saved['epoch']}, step {saved['step']}" in out, err
    assert [line["epoch"] for line in log_lines(folder)] == list(range(saved["epoch"] + 1))


def shell(line, **settings):
    """Run a line of bash; returns exit code, stdout and stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=240, env=environment, **settings
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_pretraining_under_head_is_saved(small_store, tmp_path):
    parts = " ".join(command("pretraining", small_store, tmp_path / "o"))
    code, out, err = shell(f"{parts} | head -n 3; exit ${{PIPESTATUS[0]}}")
    assert code == EXIT_RESUMABLE and len(out.splitlines()) == 3 and "Traceback" not in err, err
    assert load_checkpoint(tmp_path / "o" / LAST)["kind"] == "pretraining"


# A script with everything that can go wrong with the streams: the exit code and the saved file must not
# depend on them.
SCRIPT = """
    import os, sys
    sys.path.insert(0, {repository!r})
    from pathlib import Path
    from utils.errors import UserError, run_script
    from utils.files import atomic_write
    from utils.standard_streams import stdout_error

    def main():
        print("first", "caf\\udce9", flush=True)
        print("progress", file=sys.stderr, flush=True)
        os.system("echo of a child process >&2")
        print("second", flush=True)
        atomic_write(Path(sys.argv[1]), lambda file: file.write(b"saved"))
        Path(sys.argv[1] + ".stop").write_text(type(stdout_error()).__name__)
        if sys.argv[2] == "error":
            raise UserError("wrong")
        return int(sys.argv[2])

    run_script(main)
"""


@pytest.mark.parametrize("code", ["0", "75", "error"])
@pytest.mark.parametrize(
    "streams, error",
    [
        (">&- 2>&-", "NoneType"),
        ("> /dev/full 2>&1", "OSError"),
        ("2> /dev/full", "NoneType"),
        ("| true", "BrokenPipeError"),
        ("2>&1 | true", "BrokenPipeError"),
    ],
)
def test_streams_that_cannot_be_written(tmp_path, streams, error, code):
    """Everything is saved. Only exit code 0 becomes an error: the output may be the only result."""
    script, saved = tmp_path / "script.py", tmp_path / "saved"
    script.write_text(textwrap.dedent(SCRIPT.format(repository=str(REPOSITORY))))
    line = f"{sys.executable} {script} {saved} {code} {streams}; exit ${{PIPESTATUS[0]}}"
    ended, _, err = shell(line)
    assert ended == (2 if code == "error" or (code == "0" and error == "OSError") else int(code)), err
    assert saved.read_bytes() == b"saved" and "Traceback" not in err
    if "true" not in streams:  # otherwise the reader may end after the last line
        assert Path(f"{saved}.stop").read_text() == error


def test_output_that_cannot_be_written_is_reported(tmp_path):
    script, saved = tmp_path / "script.py", tmp_path / "saved"
    script.write_text(textwrap.dedent(SCRIPT.format(repository=str(REPOSITORY))))
    code, _, err = shell(f"{sys.executable} {script} {saved} 0 > /dev/full")
    assert code == 2 and "error: the output cannot be written" in err


# The end of the processes of torchrun

RANK = """
    import atexit, os, sys
    sys.path.insert(0, {repository!r})
    import torch
    from engine.distributed import process_group
    from utils.errors import UserError, run_script

    def main():
        atexit.register(lambda: print("finalized", flush=True))
        with process_group() as group:
            assert group.any(group.rank == 1, torch.device("cpu"))
            print("of the first process")
        if sys.argv[1] == "bug":
            raise AssertionError("a bug")
        return 75

    run_script(main)
"""


@pytest.mark.parametrize("end, expected", [("stopped", 75), ("bug", 1)])
def test_processes_of_a_group_end_without_finalization(tmp_path, end, expected):
    """Threads of the group that release a tensor during finalization would abort the process."""
    script = tmp_path / "rank.py"
    script.write_text(textwrap.dedent(RANK.format(repository=str(REPOSITORY))))
    port = str(20_000 + os.getpid() % 20_000 + (end == "bug"))
    ranks = [
        subprocess.Popen(
            [sys.executable, script, end],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                **{"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank},
                **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"},
            },
        )
        for rank in ("0", "1")
    ]
    for rank, process in enumerate(ranks):
        out, err = process.communicate(timeout=240)
        assert process.returncode == expected, err
        assert out == ("" if rank else "of the first process\n")
        assert ("AssertionError: a bug" in err) == (end == "bug")
