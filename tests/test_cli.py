"""The commands' frame: exit statuses, one message for a mistake, --debug."""

import errno
import importlib
import json
import logging
import os
import subprocess
import sys
import textwrap
from importlib.metadata import version

import pytest

from flax_sd import cli
from flax_sd.errors import UserError


def raising(error):
    def command(args):
        raise error

    return command


def test_a_mistake_is_one_message_and_status_2(capsys):
    assert cli.guarded(raising(UserError("the thing is wrong")), []) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: the thing is wrong\n")


def test_debug_shows_where_and_is_no_argument_of_the_command(capsys):
    assert cli.guarded(raising(UserError("the thing")), ["--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and err.endswith("error: the thing\n")
    assert cli.guarded(lambda args: len(args), ["a", "--debug"]) == 1


def status_of_main():
    """The status that the command exits with; None if it only returns."""
    try:
        cli.main()
    except SystemExit as ended:
        return ended.code
    return None


@pytest.mark.parametrize(
    "flags, said", [([], False), (["--debug"], True)], ids=["quiet", "with --debug"]
)
def test_alarms_of_the_compiler_stay_off_the_terminal(flags, said):
    """U10: XLA's "Very slow compile?", of the same alarm, would take two minutes to show."""
    code = f"""
        from flax_sd import cli

        def command(args):
            import jax
            import jax.numpy as jnp

            window = 0.0, jax.lax.add, (15, 15, 5), (1, 1, 1), "SAME"
            jax.jit(lambda: jax.lax.reduce_window(jnp.ones((16, 16, 20)), *window))()

        cli.guarded(command, {flags})
    """
    environment = {
        k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "TF_CPP_MIN_LOG_LEVEL")
    }
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    script = [sys.executable, "-c", textwrap.dedent(code)]
    ended = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
    assert ("taking > 1s" in ended.stderr) == said


def test_a_full_disk_needs_no_trace(capsys):
    """F25's sibling: nor the system's number of it."""
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/x.png")
    assert cli.guarded(raising(error), []) == 2
    assert capsys.readouterr().err == "error: out/x.png: No space left on device\n"


def test_our_own_mistakes_keep_their_trace():
    for error in (RuntimeError("bug"), ValueError("bug"), OSError("bug")):
        with pytest.raises(type(error), match="bug"):
            cli.guarded(raising(error), [])


def test_ctrl_c_while_nothing_is_there_to_be_saved(capsys):
    assert cli.guarded(raising(KeyboardInterrupt()), []) == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C\n"


def test_warnings_go_to_standard_error_once(capsys):
    for _ in range(2):
        cli.guarded(lambda args: logging.getLogger("flax_sd").warning("cut off") or 0, [])
    assert capsys.readouterr().err.count("cut off") == 2


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        ([], None, "usage: flax-sd COMMAND"),
        (["--help"], None, "  train       Trains a LoRA"),
        (["help"], None, "  check-data  Finds problems"),
        (["help", "plan"], 0, "usage: flax-sd plan [CONFIG]"),
        (["plan", "sd15_lora", "-h"], 0, "[stable-diffusion-v1-5/stable-diffusion-v1-5]"),
        (["plan", "--help-all"], 0, "--vae_loss.kl_weight N"),
        (["--version"], None, f"jax {version('jax')}, flax {version('flax')}"),
        (["-V"], None, "flax_sd "),
        (["trian"], 2, "there is no command 'trian'; did you mean train?"),
        (["help", "xyzzy"], 2, "there is no command 'xyzzy': the commands are train, sample,"),
    ],
)
def test_the_installed_command(monkeypatch, capsys, args, status, said):
    monkeypatch.setattr(sys, "argv", ["flax-sd", *args])
    assert status_of_main() == status
    assert said in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("typed", "status"),
    [
        ("train --help", 0),
        ("sample --help-all", 0),
        ("train --lora.rnak 3", 2),
        ("sample --model m --sed 1", 2),
        ("export", 2),
        ("--version", None),
    ],
)
def test_help_and_mistakes_come_before_jax_is_imported(monkeypatch, capsys, typed, status):
    """Of this process JAX is a part already: another one is only asked for what it imports."""
    monkeypatch.setattr(sys, "argv", ["flax-sd", *typed.split()])
    imported = []
    monkeypatch.setattr(importlib, "import_module", _noting(importlib.import_module, imported))
    assert status_of_main() == status
    assert not [name for name in imported if "commands" in name and "config" not in name]
    assert (capsys.readouterr().out == "") == (status == 2)


def _noting(call, names):
    def noting(name, *args):
        names.append(name)
        return call(name, *args)

    return noting


def test_a_command_starts_again_before_jax_is_imported():
    """And no module of options imports it."""
    code = """
        import sys
        from flax_sd import cli
        print(*sys.modules.keys() & {'jax', 'numpy', 'pydantic'})
        for name in cli.COMMANDS:
            cli._help(name, [])
        print(*sys.modules.keys() & {'jax', 'datasets', 'flax'})
    """
    script = [sys.executable, "-c", textwrap.dedent(code)]
    found = subprocess.run(script, capture_output=True, text=True, check=True)
    assert found.stdout == "\n\n"


def test_the_installed_command_passes_the_status_on(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["flax-sd", "train", "nowhere.yaml"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "config nowhere.yaml cannot be read: No such file" in capsys.readouterr().err


@pytest.fixture
def folder(tmp_path):
    """A folder that is no model, an empty data set, and one that is not UTF-8."""
    (tmp_path / "model").mkdir()
    (tmp_path / "sd3").mkdir()
    index = {"_class_name": "StableDiffusion3Pipeline"}
    (tmp_path / "sd3" / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin").mkdir()
    (tmp_path / "latin" / "metadata.jsonl").write_bytes("Käse".encode("latin-1"))
    return tmp_path


NONE_HELD = ["--data.held_out", "none"]  # the quickstart's go with its own images


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.path", "{}/nowhere", *NONE_HELD], "nowhere is not there: data.path names"),
        (["--data.held_out", "{}/nowhere"], "nowhere is not there: data.held_out names"),
        (["--data.held_out_base", "{}/nowhere"], "nowhere is not there: data.held_out_base names"),
        (["--data.path", "{}/empty", *NONE_HELD], "empty holds no images and no captions"),
        (
            ["--data.path", "{}/latin", *NONE_HELD],
            "metadata.jsonl is not UTF-8 (byte 0xe4 in line 1)",
        ),
        (["--model.path", "{}/nowhere"], "nowhere does not exist"),
        (["--model.path", "{}/model"], "model is not a diffusers model: it has no model_index"),
        (["--model.path", "{}/sd3"], "sd3 is a StableDiffusion3Pipeline"),
        (["--data.resolution", "100"], "must be a multiple of 8 (the VAE's stride); near it: 96"),
        (["--lora.rnak", "3"], "--lora.rnak: there is no such option; did you mean lora.rank?"),
        (["--mesh.fsdp", "3"], "mesh.fsdp is 3, which does not divide"),
        (["--mesh.data", "3"], "mesh.data 3 x mesh.fsdp 1 = 3, but there are"),
        (["--data.background", "snow-ish"], "data.background 'snow-ish' is not a colour"),
    ],
)
def test_bad_input_is_one_sentence_with_status_2(folder, capsys, monkeypatch, flags, message):
    monkeypatch.setenv("XLA_FLAGS", "")
    flags = [flag.format(folder) for flag in flags]
    out = folder / "out"
    assert cli.train(["quickstart", "--output", str(out), *flags]) == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("error: ") and len(err.splitlines()) == 1
    assert "Traceback" not in err and not out.exists()


def test_the_output_of_a_command_never_ends_it(monkeypatch, capsys):
    """F16: messages and warnings too, whose file names a terminal would obey."""

    def command(args):
        logging.getLogger("flax_sd").warning("a\x1b[2J.png is damaged")
        raise UserError("b\x1b[2J.png ‖ 猫")

    assert cli.guarded(command, []) == 2
    err = capsys.readouterr().err
    assert "a\\x1b[2J.png" in err and "b\\x1b[2J.png" in err and "\x1b" not in err
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.guarded(command, []) == 2
