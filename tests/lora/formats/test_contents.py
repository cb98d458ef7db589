import json
import re

import ml_dtypes
import numpy as np
import pytest

from flax_sd.errors import UserError
from flax_sd.lora.adapter import Adapter
from flax_sd.lora.formats import kohya, peft
from flax_sd.lora.formats.contents import read_contents
from flax_sd.lora.formats.format import LayerRef
from flax_sd.weights import safetensors
from flax_sd.weights.safetensors import TensorFile

RNG = np.random.default_rng(0)
TO_Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
CONV, TEXT = "down_blocks.1.resnets.0.conv2", "text_model.encoder.layers.3.mlp.fc1"


def adapter(rank, c_in, c_out, window=(), alpha=3.0):
    down = RNG.normal(size=(rank, c_in, *window)).astype(np.float32)
    return Adapter(down, RNG.normal(size=(c_out, rank, *(1 for _ in window))), alpha)


def lora(alpha=3.0):
    unet = {TO_Q: adapter(2, 6, 8, (), alpha), CONV: adapter(4, 3, 5, (3, 3), alpha)}
    return {"unet": unet, "text_encoder": {TEXT: adapter(2, 7, 9, (), alpha)}}


def contents(path, content, metadata=None):
    safetensors.write(path, content, metadata)
    return read_contents(TensorFile(path))


@pytest.mark.parametrize("write", [kohya.write, peft.write])
def test_layers_ranks_and_norms_without_a_model(tmp_path, write):
    ours = lora()
    write(tmp_path / "a", ours)
    found = read_contents(TensorFile(tmp_path / "a"))
    assert not found.problems and not found.unknown and not found.is_rank_stabilised
    assert found.formats.startswith("kohya" if write is kohya.write else "PEFT")
    want = {LayerRef(c, path): one for c, own in ours.items() for path, one in own.items()}
    assert found.layers.keys() == want.keys()
    for ref, layer in found.layers.items():
        assert layer.rank == want[ref].rank
        norm = found.adapter(ref)[0].norm()
        np.testing.assert_allclose(norm, np.linalg.norm(want[ref].delta()), rtol=1e-5)
    if write is kohya.write:
        assert {layer.alpha for layer in found.layers.values()} == {3.0}


def test_what_is_broken_is_named(tmp_path):
    name = f"lora_unet_{TO_Q.replace('.', '_')}"
    content = {
        f"{name}.lora_down.weight": np.ones((2, 6), ml_dtypes.bfloat16),
        f"{name}.lora_up.weight": np.ones((8, 3), ml_dtypes.bfloat16),
        f"lora_unet_{CONV.replace('.', '_')}.lora_up.weight": np.ones((8, 3), np.float32),
        "lora_unet_nowhere.alpha": np.ones((), np.float32),
    }
    found = contents(tmp_path / "a", content)
    assert found.unknown == ["lora_unet_nowhere.alpha"] and not found.layers
    said = "\n".join(found.problems)
    assert "lora_down.weight is [2, 6] and up [8, 3]" in said
    assert "no down beside" in said and "nowhere" not in said


@pytest.mark.parametrize(
    ("down", "up", "said"),
    [
        ((0, 6), (8, 0), "rank 0: lora_unet"),
        ((), (8, 2), r"is \[\] and up \[8, 2\]"),
        ((2, 6), (8,), r"is \[2, 6\] and up \[8\]"),
        ((2, 3, 3, 3), (8, 2, 3, 3), r"up \[8, 2, 3, 3\]: not \[rank"),
    ],
)
def test_shapes_that_are_no_update(tmp_path, down, up, said):
    name = f"lora_unet_{CONV.replace('.', '_')}"
    content = {"down": np.zeros(down, np.float32), "up": np.zeros(up, np.float32)}
    content = {f"{name}.lora_{part}.weight": array for part, array in content.items()}
    found = contents(tmp_path / "a", content)
    assert not found.layers and re.search(said, *found.problems)


def test_the_config_of_peft_gives_alpha_and_rslora(tmp_path):
    key = f"unet.{TO_Q}"
    content = {
        f"{key}.lora_A.weight": np.ones((4, 6), np.float32),
        f"{key}.lora_B.weight": np.ones((8, 4), np.float32),
    }
    config = {"unet.r": 4, "unet.lora_alpha": 8, "unet.use_rslora": True}
    header = {"lora_adapter_metadata": json.dumps(config)}
    found = contents(tmp_path / "a", content, header)
    assert found.is_rank_stabilised and found.layers["unet", TO_Q].alpha == 16
    raw = {f"base_model.model.{k.removeprefix('unet.')}": t for k, t in content.items()}
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        contents(tmp_path / "b", raw)
