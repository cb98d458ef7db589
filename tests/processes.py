"""Runs Python in processes of their own: fake devices, several processes, and kills."""

import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def start(
    code: str, *args: object, stdin: int | None = None, **environ: object
) -> subprocess.Popen[str]:
    """Starts `python -W error -c code args` at the repository's root, its output piped."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", **{k: str(v) for k, v in environ.items()}}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *map(str, args)],
        cwd=ROOT,
        env=env,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 300, status: int = 0) -> str:
    """Waits for an exit status and returns what was printed."""
    with process:
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
    assert process.returncode == status, err
    return out


def run(code: str, *args: object, **environ: object) -> str:
    """Starts and finishes."""
    return finish(start(code, *args, **environ))


def run_two(code: str, *args: object, status: int = 0) -> list[str]:
    """Runs the code in two processes that `initialize_distributed` joins."""
    return run_joined(2, code, *args, status=status)


def run_joined(count: int, code: str, *args: object, status: int = 0) -> list[str]:
    """Runs the code in so many joined processes, each of which ends with the status."""
    processes = start_joined(count, code, *args)
    try:
        return [finish(process, status=status) for process in processes]
    finally:
        for process in processes:
            with process:
                process.kill()


def start_joined(count: int, code: str, *args: object) -> list[subprocess.Popen[str]]:
    """Starts the code in so many processes that `initialize_distributed` joins."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        start(
            code,
            *args,
            JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
            JAX_NUM_PROCESSES=count,
            JAX_PROCESS_ID=rank,
        )
        for rank in range(count)
    ]
