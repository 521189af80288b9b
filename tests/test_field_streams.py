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
from conftest import PRETRAINING_FLAGS, TINY_FLAGS, log_lines
from processes import REPOSITORY, pretraining_script

from engine.checkpoint import LAST, load_checkpoint
from engine.signals import EXIT_RESUMABLE

FLAGS = [*PRETRAINING_FLAGS, *TINY_FLAGS, "--save-freq", "100000"]


def pretraining(store, folder):
    """The command line of a pretraining that takes longer than any test."""
    script = pretraining_script(folder.with_suffix(".py"))
    flags = [*FLAGS, "--epochs", "100000", "--data-root", store, "--checkpoint-path", folder]
    return " ".join(f"'{part}'" for part in (sys.executable, script, *flags))


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


def test_ctrl_c_that_also_ends_tee(pretrain, small_store, tmp_path):
    """A real Ctrl-C reaches the script and ``tee``; the script saves, and a resumed run finishes."""
    folder, code = tmp_path / "o", tmp_path / "code"
    command = f"trap : INT; {pretraining(small_store, folder)}; echo $? > {code};"
    in_terminal(f"{{ {command} }} | tee {tmp_path / 'log.txt'}", lambda: has_epoch(folder))
    wait_for(code.is_file)
    assert int(code.read_text() or -1) == EXIT_RESUMABLE
    saved = load_checkpoint(folder / LAST)
    assert (saved["epoch"], saved["step"]) >= (1, 0)
    flags = [*FLAGS, "--epochs", saved["epoch"] + 1, "--resume", "auto", "--data-root", small_store]
    out = pretrain.succeed(folder, *flags)
    assert f"epoch {saved['epoch'] + 1}, step {saved['step']}" in out
    assert [line["epoch"] for line in log_lines(folder)] == list(range(saved["epoch"] + 1))


def shell(line, **settings):
    """Run a line of bash; returns exit code, stdout and stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=240, env=environment, **settings
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_pretraining_under_head_is_saved(small_store, tmp_path):
    command = pretraining(small_store, tmp_path / "o")
    code, out, err = shell(f"{command} | head -n 3; exit ${{PIPESTATUS[0]}}")
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
        ("> /dev/full", "OSError"),
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
    if streams == "> /dev/full" and code == "0":
        assert "error: the output cannot be written" in err
    if "true" not in streams:  # otherwise the reader may end after the last line
        assert Path(f"{saved}.stop").read_text() == error
