import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from flax_sd.errors import UserError
from flax_sd.lora.formats import peft
from tests.lora.formats.files import header, lora_of, pair, read_small, saved


def test_peft_file(tmp_path):
    lora = lora_of([6.0] * 5)
    peft.write(tmp_path / "a", lora)
    tensors, adapter = load_file(tmp_path / "a"), lora["unet"]["attn2.to_q"]
    assert header(tmp_path / "a") == {"format": "pt"}
    np.testing.assert_array_equal(tensors["unet.attn2.to_q.lora_A.weight"], adapter.down)
    np.testing.assert_array_equal(tensors["unet.attn2.to_q.lora_B.weight"], 3 * adapter.up)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"r": 2, "lora_alpha": 8}, 4.0),
        ({"r": 2, "lora_alpha": 8, "use_rslora": True}, 8 / 2**0.5),
        ({"r": 2, "lora_alpha": 8, "alpha_pattern": {"to_q": 3}}, 1.5),
        ({"r": 2, "lora_alpha": 8, "alpha_pattern": {"to_k": 3}}, 4.0),
    ],
)
def test_alpha_of_peft(tmp_path, config, scale):
    raw = pair("base_model.model.attn2.to_q", down="lora_A", up="lora_B")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    saved(tmp_path, raw, name="adapter_model.safetensors")
    assert read_small(tmp_path)["attn2.to_q"].scale == pytest.approx(scale)

    header = {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in config.items()})}
    of_diffusers = pair("unet.attn2.to_q", down="lora_A", up="lora_B")
    path = saved(tmp_path, of_diffusers, header)
    assert read_small(path)["attn2.to_q"].scale == pytest.approx(scale)


def test_raw_peft_file_needs_its_config(tmp_path):
    raw = pair("base_model.model.attn2.to_q", down="lora_A", up="lora_B")
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        read_small(saved(tmp_path, raw))
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 2, "lora_bias": true}')
    with pytest.raises(UserError, match="lora_bias is not supported"):
        read_small(saved(tmp_path, raw))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (b"\xff", "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b'{"lora_alpha": "8"}', "alpha of attn2.to_q is '8', not a number"),
        (b'{"alpha_pattern": {"to_(": 8}}', r"alpha_pattern 'to_\('"),
    ],
)
def test_broken_peft_config(tmp_path, config, said):
    (tmp_path / "adapter_config.json").write_bytes(config)
    raw = pair("base_model.model.attn2.to_q", down="lora_A", up="lora_B")
    with pytest.raises(UserError, match=said):
        read_small(saved(tmp_path, raw))
