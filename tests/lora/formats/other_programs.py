"""Small LoRA files of many kinds, and what diffusers has in its networks after loading one."""

import numpy as np
import torch
from peft.utils.error import NoMatchingPeftModuleError

from flax_sd.lora.formats.compatibility import support
from flax_sd.lora.formats.contents import read_contents
from flax_sd.weights import safetensors
from flax_sd.weights.safetensors import TensorFile
from tests import tiny

RANK = 2
ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn1"
TO_Q, TO_K, TO_OUT = (f"{ATTENTION}.{end}" for end in ("to_q", "to_k", "to_out.0"))
FF = ATTENTION.replace("attn1", "ff.net.2")
TEXT = "text_model.encoder.layers.0.self_attn"
Q_PROJ, K_PROJ, OUT_PROJ = (f"{TEXT}.{end}_proj" for end in ("q", "k", "out"))


def flat(prefix, path):
    return prefix + path.replace(".", "_")


RNG = np.random.default_rng(0)


def tensors(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def pair(name, width=8, down=".lora_down.weight", up=".lora_up.weight", outputs=None):
    return {name + down: tensors(RANK, width), name + up: tensors(outputs or width, RANK)}


def unet(path, alpha=None, outputs=None, width=8):
    name = flat("lora_unet_", path)
    own = {} if alpha is None else {f"{name}.alpha": np.array(alpha, np.float32)}
    return pair(name, width, outputs=outputs) | own


def text(path, alpha=None, prefix="lora_te_"):
    name = flat(prefix, path)
    return pair(name, 12) | ({f"{name}.alpha": np.float32([alpha])[0]} if alpha else {})


def peft(name, width=8):
    return pair(name, width, ".lora_A.weight", ".lora_B.weight")


def dotted(name, down, up, width=8):
    return pair(name, width, down, up)


def opened(folder, content, *, family=None):
    path = folder / "lora.safetensors"
    (folder / "adapter_config.json").write_text('{"lora_alpha": 2}')  # which peft's own files want
    safetensors.write(path, {key: np.asarray(tensor) for key, tensor in content.items()})
    return support(read_contents(TensorFile(path)), family)


def not_there(content, found):
    """The keys of the tensors that are not among these."""

    def there(tensor):
        values = torch.from_numpy(np.ravel(tensor))
        return any(torch.equal(values, one.detach().reshape(-1)) for one in found)

    return {key for key, tensor in content.items() if not there(tensor)}


def loaded_by_diffusers(folder, build=lambda: tiny.build("sd1")):
    """The tensors, and the scales, that are in the networks after loading; None if it refuses."""
    pipeline = build()
    try:
        pipeline.load_lora_weights(folder, weight_name="lora.safetensors")
    except (ValueError, KeyError, NoMatchingPeftModuleError):
        pass  # what was loaded before the error counts
    found, scales = [], {}
    for name in ("unet", "text_encoder", "text_encoder_2"):
        network = getattr(pipeline, name, None) or torch.nn.Module()
        found += [t for n, t in network.named_parameters() if "lora_" in n and not t.is_meta]
        for name, module in network.named_modules():
            if getattr(module, "scaling", None):
                scales[name.removeprefix("text_model.")] = next(iter(module.scaling.values()))
    return found, scales


COMFYUIS_ENDS = (
    *(".lora_up.weight", ".lora_down.weight", "_lora.up.weight", "_lora.down.weight", ".alpha"),
    *(".lora_B.weight", ".lora_A.weight", ".lora.up.weight", ".lora.down.weight", ".dora_scale"),
    *(".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
)
