"""flax-sd convert, as it is typed."""

import shutil

import numpy as np
import pytest

import flax_sd
from flax_sd.cli import convert as command
from flax_sd.weights import safetensors
from flax_sd.weights.safetensors import TensorFile
from tests.processes import run as run_process
from tests.weights.ldm.conftest import singles

__all__ = ["singles"]


@pytest.fixture
def work(singles, tmp_path, monkeypatch):
    """A folder with a tiny model in both forms, in which commands are typed."""
    shutil.copytree(singles / "sd1", tmp_path / "folder")
    shutil.copy(singles / "sd1.safetensors", tmp_path / "file.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *args):
    """Its one sentence."""
    assert command(list(args)) == 2
    return capsys.readouterr().err.replace("\n", " ")


def test_there_and_back(work, capsys):
    assert command(["folder", "a/b/new.safetensors", "--dtype", "float16"]) == 0
    out = capsys.readouterr().out
    assert "written: a/b/new.safetensors, sd1, 1.4 MB" in out
    assert out.count(" left") < 4
    assert command(["a/b/new.safetensors", "back", "--config", "folder"]) == 0
    assert command(["back", "a/b/new.safetensors"]) == 0  # an earlier export is replaced
    metadata = TensorFile(work / "a/b/new.safetensors").metadata
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1"
    assert metadata["modelspec.title"] == "folder"
    assert sorted(path.name for path in (work / "a/b").iterdir()) == ["new.safetensors"]


def test_nothing_of_the_users_is_replaced(work, capsys):
    (work / "notes.safetensors").write_text("mine")
    (work / "pictures").mkdir()
    (work / "pictures/a.png").write_text("mine")
    before = (work / "file.safetensors").read_bytes()
    for out in ("notes.safetensors", "pictures", "file.safetensors", "folder"):
        for source in ("folder", "file.safetensors"):
            said = refused(capsys, source, out)
            assert f"{out} exists and is not an earlier export: choose another OUT" in said
    assert (work / "file.safetensors").read_bytes() == before
    assert (work / "notes.safetensors").read_text() == "mine"


def test_out_is_source(work, capsys):
    assert command(["folder", "a.safetensors"]) == 0
    assert "OUT a.safetensors is or holds SOURCE" in refused(
        capsys, "a.safetensors", "a.safetensors", "--dtype", "float16"
    )
    assert command(["folder", "b"]) == 0
    (work / "link").symlink_to("b")
    assert "OUT link is or holds SOURCE" in refused(capsys, "b", "link")
    shutil.copy("file.safetensors", "b/inside.safetensors")
    assert "holds inside.safetensors besides" in refused(
        capsys, "b/inside.safetensors", "b", "--config", "folder"
    )
    assert (work / "b/inside.safetensors").exists()


def test_files_of_the_users_in_an_earlier_export_are_kept(work, capsys):
    assert command(["folder", "b"]) == 0
    (work / "b/notes.txt").write_text("mine")
    said = refused(capsys, "folder", "b")
    assert "b is an earlier export, and holds notes.txt besides: choose another OUT" in said
    (work / "b/notes.txt").unlink()
    assert command(["folder", "b"]) == 0


def test_a_model_made_of_an_export_is_none(work, capsys):
    """Its mark went on with the index, and an export in its place was then allowed."""
    assert command(["folder", "b"]) == 0
    flax_sd.StableDiffusion.load("b").save(work / "mine")
    assert "mine exists and is not an earlier export" in refused(capsys, "folder", "mine")


def test_what_is_no_whole_model(work, capsys):
    whole = TensorFile("file.safetensors")
    vae = {key: whole[key] for key in whole if key.startswith("first_stage_model.")}
    safetensors.write("vae.safetensors", vae)
    safetensors.write("lora.safetensors", {"lora_unet_x.lora_down.weight": np.ones((2, 2))})
    (work / "old.ckpt").write_bytes(b"PK\x03\x04" + b"\0" * 99)
    data = (work / "file.safetensors").read_bytes()
    (work / "cut.safetensors").write_bytes(data[:-10])
    for source, what in {
        "vae.safetensors": "has no unet and no text_encoder: it holds vae; name a checkpoint",
        "lora.safetensors": "is a LoRA, not a model",
        "old.ckpt": "is a pickle, which can run code",
        "cut.safetensors": "10 bytes are missing; download or write it again",
        "none.safetensors": "folder none.safetensors does not exist",
        "bundled:ddpm32": "is a DDPMPipeline; only a StableDiffusionPipeline",
    }.items():
        assert what in refused(capsys, source, "out.safetensors"), source
        assert what in refused(capsys, source, "out"), source
    assert not (work / "out").exists() and not (work / "out.safetensors").exists()


def test_options_that_do_not_fit(work, singles, capsys):
    assert "--config folder: folder is a folder, and has" in refused(
        capsys, "folder", "out", "--config", "folder"
    )
    assert "--ema: folder is a folder" in refused(capsys, "folder", "out", "--ema")
    assert "holds no whole running mean (EMA)" in refused(
        capsys, "file.safetensors", "out.safetensors", "--ema"
    )
    assert "pickles are not written" in refused(capsys, "folder", "out.ckpt")
    assert "--dtype" in refused(capsys, "folder", "out", "--dtype", "int8")
    assert "width 8 and not 320" in refused(capsys, "file.safetensors", "out")
    sd2 = str(singles / "sd2.safetensors")
    assert "--prediction-type is not set" in refused(capsys, sd2, "out.safetensors")
    assert "--zero-snr: the last timestep is pure noise" in refused(
        capsys, "folder", "out", "--zero-snr"
    )
    assert sorted(path.name for path in work.iterdir()) == ["file.safetensors", "folder"]


def test_a_full_disk(work, monkeypatch, capsys):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for out in ("new.safetensors", "new"):
        said = refused(capsys, "folder", out)
        assert f"cannot write {out}" in said.replace(str(work) + "/", "") or "new" in said
        assert "No space left on device (the disk mounted at" in said
    assert sorted(path.name for path in work.iterdir()) == ["file.safetensors", "folder"]


MEMORY = """
import pathlib, re, sys, threading, time
from flax_sd.weights.conversion import Conversion
from flax_sd.weights.model_files import ModelFiles

def anonymous():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", status)[1]) * 1024

files = ModelFiles(pathlib.Path(sys.argv[1]), config=pathlib.Path(sys.argv[4]))
conversion = Conversion(files, files.scheduler(None, zero_snr=False), sys.argv[3] or None)
conversion.size()
kept = [files.tokenizer(name) for name in files.kind.tokenizers]  # as large for every model
before = peak = anonymous()

def told(size):
    global peak
    peak = max(peak, anonymous())

done = threading.Event()
def watch():
    while not done.wait(0.001):
        told(0)
watcher = threading.Thread(target=watch)
watcher.start()
conversion._replace(told=told).write(pathlib.Path(sys.argv[2]))
done.set()
watcher.join()
print(max(peak, anonymous()) - before)
"""


@pytest.mark.parametrize(("out", "dtype"), [("b.safetensors", ""), ("b", "bfloat16")])
def test_one_tensor_at_a_time_is_in_memory(singles, tmp_path, out, dtype):
    """Ten tensors of 8 MB, in part packed: all at once are 80 MB, and 40 MB in 16 bits."""
    tensors = dict(TensorFile(singles / "sdxl.safetensors"))
    rng, size, text = np.random.default_rng(0), 8 * 2**20, "conditioner.embedders.1.model."
    packed = [key for key in tensors if key.startswith(text) and "in_proj_weight" in key]
    plain = [key for key in tensors if key.startswith(text) and ".mlp.c_" in key and "weig" in key]
    names = [*packed, *plain, f"{text}text_projection"]
    assert len(names) == 10
    for name in names:
        tensors[name] = rng.normal(size=(3 * 256, size // 4 // 768)).astype(np.float32)
    safetensors.write(tmp_path / "large.safetensors", tensors)
    large, folder = tmp_path / "large.safetensors", singles / "sdxl"
    grown = int(run_process(MEMORY, large, tmp_path / out, dtype, folder))
    assert 0 < grown < 4 * size
