"""Where a model lies: folders, what comes with the package, and a made-up cache of the hub."""

import shutil
import types

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from flax_sd.errors import UserError
from flax_sd.weights import hub

SD15 = [
    "README.md",
    "model_index.json",
    "v1-5-pruned.ckpt",
    "v1-5-pruned.safetensors",
    "feature_extractor/preprocessor_config.json",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/pytorch_model.bin",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]
SMALL = [name for name in SD15 if name.endswith((".json", ".txt"))]
SMALL = [name for name in SMALL if not name.startswith(("feature", "safety"))]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache, and no hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def fake_repository(cache, repo, branch="main", sha="0" * 40):
    root = cache / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / sha
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / branch).write_text(sha)
    return snapshot


def test_a_folder_is_itself(tmp_path, monkeypatch):
    assert hub.resolve(tmp_path) == tmp_path
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert hub.resolve("org/model").samefile(tmp_path / "org" / "model")


def test_what_comes_with_the_package():
    assert (hub.resolve("bundled:base") / "tokenizer" / "vocab.json").is_file()
    with pytest.raises(
        UserError, match="bundled:bass does not come with .*; bundled:base, bundled:ddpm32 do"
    ):
        hub.resolve("bundled:bass")


@pytest.mark.parametrize("source", ["/no/where", "./runs/cat", "../x", "a/b/c", "cat", "~/none"])
def test_a_path_that_is_not_there_is_called_a_folder(source, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match=f"^folder {source} does not exist$"):
        hub.resolve(source)


def test_one_file_is_a_model_and_a_pickle_is_none(tmp_path):
    for name in ("sd.safetensors", "sd.ckpt", "sd.gguf"):
        (tmp_path / name).write_bytes(b"")
    assert hub.resolve(tmp_path / "sd.safetensors") == tmp_path / "sd.safetensors"
    with pytest.raises(UserError, match="is a file: leave out 'fp16'"):
        hub.resolve(tmp_path / "sd.safetensors", variant="fp16")
    with pytest.raises(UserError, match=r"sd.ckpt is a pickle.*convert it.*'sd.safetensors'"):
        hub.resolve(tmp_path / "sd.ckpt")
    with pytest.raises(UserError, match="sd.gguf is a file, but no .safetensors"):
        hub.resolve(tmp_path / "sd.gguf")


def test_a_checkpoint_may_lie_beside_a_models_index(tmp_path, monkeypatch):
    """As the hub's repositories have it, named by a relative path too."""
    (tmp_path / "unet").mkdir()
    for name in ("model_index.json", "sd.safetensors", "unet/part.safetensors"):
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert str(hub.resolve("sd.safetensors")) == "sd.safetensors"
    for name in ("unet/part.safetensors", "model_index.json"):
        with pytest.raises(UserError, match="is a file of the model"):
            hub.resolve(name)


def test_the_cache_serves_without_a_hub(cache):
    main = fake_repository(cache, "org/model")
    old = fake_repository(cache, "org/model", branch="v1", sha="1" * 40)
    assert hub.resolve("org/model") == main
    assert hub.resolve("org/model", revision="v1") == old
    shutil.rmtree(main)
    with pytest.raises(UserError, match="neither a folder here nor in the hub's cache"):
        hub.resolve("org/model")


def test_an_unreachable_hub_gives_one_sentence(cache):
    with pytest.raises(UserError) as caught:
        hub.resolve("org/model", revision="v2")
    assert str(caught.value) == (
        "org/model, revision v2, is neither a folder here nor in the hub's cache, "
        "and the hub cannot be reached (OfflineModeIsEnabled)"
    )


def test_only_the_needed_files_of_sd15():
    weights = ["text_encoder/model", "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"]
    plain = [f"{name}.safetensors" for name in weights]
    assert sorted(hub.needed_files(SD15, None, "x")) == sorted(SMALL + plain)
    half = [f"{name}.fp16.safetensors" for name in weights[:2]] + plain[2:]
    assert sorted(hub.needed_files(SD15, "fp16", "x")) == sorted(SMALL + half)


def test_shards_of_one_variant():
    stem = "unet/diffusion_pytorch_model"
    plain = [f"{stem}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    new = [f"{stem}.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index, half_index = (f"{stem}.safetensors.index.{end}" for end in ("json", "fp16.json"))
    names = ["model_index.json", index, half_index, *plain, *new]
    assert hub.needed_files(names, None, "x")[1:] == [index, *plain]
    assert hub.needed_files(names, "fp16", "x")[1:] == [half_index, *new]
    old = [name.replace(".safetensors", ".fp16.safetensors") for name in plain]
    names = ["model_index.json", index, half_index, *plain, *old]
    assert hub.needed_files(names, "fp16", "x")[1:] == [half_index, *old]
    assert hub.needed_files(names, None, "x")[1:] == [index, *plain]


def test_a_vae_of_its_own():
    names = ["config.json", "diffusion_pytorch_model.safetensors", "taesd_encoder.safetensors"]
    assert hub.needed_files([*names, "README.md"], None, "x") == names[:2]


def test_a_repository_of_pickles_is_refused_before_a_download():
    with pytest.raises(
        UserError, match=r"org/m/unet holds diffusion_pytorch_model\.bin, which can"
    ):
        hub.needed_files(["model_index.json", "unet/diffusion_pytorch_model.bin"], None, "org/m")


def test_a_reachable_hub_is_asked_for_the_needed_files_only(cache, monkeypatch):
    asked = {}
    info = types.SimpleNamespace(siblings=[types.SimpleNamespace(rfilename=n) for n in SD15])

    def download(repo, **kwargs):
        asked.update(kwargs, repo=repo)
        return str(cache)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, repo, revision: info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.resolve("org/model", "v1", "fp16") == cache
    assert asked["repo"] == "org/model" and asked["revision"] == "v1"
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in asked["allow_patterns"]
    assert not any("safety" in name or name.endswith("bin") for name in asked["allow_patterns"])


@pytest.mark.parametrize(
    "error, message",
    [
        (errors.RepositoryNotFoundError, "org/m is neither a folder here nor a public repository"),
        (errors.GatedRepoError, "org/m is gated: accept its licence"),
        (errors.RevisionNotFoundError, "org/m has no revision v9"),
    ],
)
def test_the_hubs_answers_are_one_sentence(cache, monkeypatch, error, message):
    def refuse(self, repo, revision):
        raise error.__new__(error)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(UserError, match=message):
        hub.resolve("org/m", revision="v9")


def test_an_incomplete_snapshot_is_used(cache, monkeypatch):
    snapshot = fake_repository(cache, "org/model")

    def incomplete(repo, **kwargs):
        raise errors.IncompleteSnapshotError("files are missing", str(snapshot))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", incomplete)
    assert hub.resolve("org/model") == snapshot


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("https://huggingface.co/org/sd", "by its id, org/sd$"),
        ("https://huggingface.co/org/sd/tree/main", "by its id, org/sd$"),
        ("https://huggingface.co/org/sd/blob/main/unet/config.json?x=1", "by its id, org/sd$"),
        ("http://www.huggingface.co/org/s.d-1/resolve/fp16/x", "org/s.d-1, and its revision fp16$"),
        ("hf.co/org/sd/", "by its id, org/sd$"),
        ("https://civitai.com/models/4201", "is an address: download the model"),
    ],
)
def test_a_page_of_the_hub_says_the_id(source, said):
    """F33."""
    with pytest.raises(UserError, match=said):
        hub.resolve(source)


def test_the_root_of_a_cached_repository_is_its_snapshot(cache):
    """F33."""
    main = fake_repository(cache, "org/model")
    root = cache / "models--org--model"
    assert hub.resolve(root) == main
    old = fake_repository(cache, "org/model", branch="v1", sha="1" * 40)
    assert hub.resolve(root) == main and hub.resolve(root, revision="v1") == old
    (root / "refs" / "main").unlink()
    with pytest.raises(UserError, match=f"lacks revision main; its snapshots: {main}, {old}"):
        hub.resolve(root)
    assert hub.resolve("org/model/", revision="v1") == old  # a slash at an id's end


def test_a_folder_around_a_model_or_a_part_of_one(tmp_path):
    """F33."""
    model = tmp_path / "sd"
    (model / "unet").mkdir(parents=True)
    (model / "model_index.json").write_text("{}")
    (model / "unet" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=f"{tmp_path} is not a model, but holds one: name {model}$"):
        hub.resolve(tmp_path)
    with pytest.raises(UserError, match=f"is a component of the model {model}: name that folder"):
        hub.resolve(model / "unet")
    for file in ("model_index.json", "unet/config.json"):
        with pytest.raises(UserError, match=f"is a file of the model {model}: name that folder"):
            hub.resolve(model / file)
    assert hub.resolve(f"{model}/") == model


@pytest.mark.parametrize("name", ["lora.safetensors", "learned_embeds.safetensors"])
def test_a_run_that_trained_no_model_is_named(tmp_path, name):
    """F33's sibling: the folder of a LoRA's run where a model is wanted."""
    (tmp_path / name).touch()
    with pytest.raises(UserError, match="a trained LoRA or embedding, not a model: name the"):
        hub.resolve(tmp_path)
