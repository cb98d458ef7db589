"""A command starts itself again once, with the allocator's settings; a library never does."""

import os
import subprocess
import sys

import pytest

from flax_sd.system.allocator import GPU_SETTINGS, take_gpu_memory
from tests.processes import ROOT

TELL = """
import os, sys
from flax_sd.system.allocator import restart_with_tunables
print("started", flush=True)
restart_with_tunables()
print(os.environ["GLIBC_TUNABLES"], sys.argv[1:], "jax" in sys.modules)
"""


def output(code: str, *args: str, **environ: str) -> str:
    env = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"} | environ
    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_it_starts_again_once_with_its_arguments():
    *starts, end = output(TELL, "--flag", "a b").splitlines()
    assert starts == ["started"] * 2
    assert "glibc.malloc.hugetlb=1" in end and end.endswith("['--flag', 'a b'] False")


def test_settings_of_the_users_stay():
    given = "glibc.malloc.arena_max=2"
    assert output(TELL, GLIBC_TUNABLES=given).splitlines() == ["started", f"{given} [] False"]


def test_importing_the_package_changes_nothing():
    code = "import flax_sd, os; flax_sd.StableDiffusion; print('GLIBC_TUNABLES' in os.environ)"
    assert output(code) == "False\n"


@pytest.mark.parametrize("said", [None, *GPU_SETTINGS])
def test_the_share_of_a_gpu_is_set_unless_the_user_did(monkeypatch, said):
    for name in GPU_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    if said:
        monkeypatch.setenv(said, "mine")
    take_gpu_memory()
    found = {name: os.environ[name] for name in GPU_SETTINGS if name in os.environ}
    assert found == ({said: "mine"} if said else {"XLA_CLIENT_MEM_FRACTION": "0.9"})
    monkeypatch.delenv("XLA_CLIENT_MEM_FRACTION", raising=False)
