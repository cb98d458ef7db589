import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from flax_sd.errors import UserError
from flax_sd.lora.formats.read import read
from flax_sd.lora.targets import slots
from flax_sd.weights import safetensors
from tests.lora.formats.files import Q, pair, read_small, saved, tensors


def test_each_module_keeps_its_own_rank_and_alpha(tmp_path):
    content = (
        pair(Q) | pair("lora_unet_attn2_to_k", c_in=5, rank=3) | pair("lora_unet_attn2_to_out_0")
    )
    content |= {f"{Q}.alpha": np.float32(1), "lora_unet_attn2_to_k.alpha": np.float32(12)}
    content = {key: np.asarray(value) for key, value in content.items()}
    lora = read_small(saved(tmp_path, content))
    scales = {path: (adapter.rank, adapter.scale) for path, adapter in lora.items()}
    assert scales == {"attn2.to_q": (2, 0.5), "attn2.to_k": (3, 4.0), "attn2.to_out.0": (2, 1.0)}
    np.testing.assert_array_equal(lora["attn2.to_q"].up, content[f"{Q}.lora_up.weight"])


def test_styles_may_differ_from_key_to_key(tmp_path):
    content = pair(Q) | pair("unet.attn2.to_k", c_in=5, down="lora_A", up="lora_B")
    content |= pair("attn2.processor.to_out_lora", down="down", up="up")
    assert read_small(saved(tmp_path, content)).keys() == {
        "attn2.to_q",
        "attn2.to_k",
        "attn2.to_out.0",
    }


def test_linears_and_1x1_convolutions_stand_for_one_another(tmp_path):
    """kohya trains SD 2's projections as convolutions; other tools SD 1's as linears."""
    content = {key: t[:, :, None, None] for key, t in pair(Q).items()}
    content |= pair("lora_unet_proj_in", c_in=3, c_out=6)
    lora = read_small(saved(tmp_path, content))
    assert (lora["attn2.to_q"].down.shape, lora["attn2.to_q"].up.shape) == ((2, 8), (8, 2))
    assert lora["proj_in"].down.shape == (2, 3, 1, 1) and lora["proj_in"].up.shape == (6, 2, 1, 1)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_files_are_read_as_float32(tmp_path, dtype):
    content = {key: t.astype(dtype) for key, t in pair(Q).items()}
    adapter = read_small(saved(tmp_path, content))["attn2.to_q"]
    assert adapter.down.dtype == np.float32
    np.testing.assert_array_equal(adapter.down, content[f"{Q}.lora_down.weight"].astype(np.float32))


@pytest.mark.parametrize("shape", [(), (0, 8), (8,)])
def test_misshaped_down_is_named(tmp_path, shape):
    content = pair(Q) | {f"{Q}.lora_down.weight": np.zeros(shape, np.float32)}
    with pytest.raises(UserError, match=rf"{Q}\.lora_down\.weight"):
        read_small(saved(tmp_path, content))


def test_every_bad_key_is_named_at_once(tmp_path):
    content = (
        pair(Q) | pair("lora_unet_nowhere") | pair("unet.attn2.to_x", down="lora_A", up="lora_B")
    )
    content |= {"lora_unet_conv_down.lora_up.weight": tensors(8, 2)}
    content |= pair("lora_unet_attn2_to_out_0", c_in=9)
    content[f"{Q}.lora_up.weight"][3, 1] = np.nan
    with pytest.raises(UserError) as error:
        read_small(saved(tmp_path, content))
    said = str(error.value)
    for key in set(content) - {f"{Q}.lora_down.weight", "lora_unet_attn2_to_out_0.lora_up.weight"}:
        assert key in said
    assert f"NaN or infinite: {Q}.lora_up.weight" in said
    assert "down is [2, 9], the model's layer needs [2, 8]" in said
    assert "no down beside lora_unet_conv_down" in said


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("lora_unet_x.hada_w1_a", "LoHa"),
        ("lora_unet_x.lokr_w1", "LoKr"),
        ("lora_unet_x.lora_mid.weight", "CP decomposition"),
        ("unet:0:up", "cloneofsimo"),
        ("lora_unet_x.diff", "weight differences"),
        ("lora_unet_output_blocks_0_1_proj_in.hada_w1_a", "LoHa .LyCORIS. for SDXL"),
        ("model.diffusion_model.out.2.weight", "is a Stable Diffusion checkpoint in one file"),
        ("conv.weight", "is not a LoRA file"),
    ],
)
def test_other_formats_are_refused_by_name(tmp_path, key, said):
    content = {key: tensors(2, 2)}
    if "lora" in key or "unet" in key:  # one such key among good ones is enough
        content |= pair(Q)
    with pytest.raises(UserError, match=said):
        read_small(saved(tmp_path, content))


def test_pickles_folders_and_missing_files(tmp_path):
    with pytest.raises(UserError, match="pickle"):
        read_small(tmp_path / "lora.bin")
    with pytest.raises(UserError, match="a folder without"):
        read_small(tmp_path)
    with pytest.raises(UserError, match="is not there"):
        read_small(tmp_path / "lora.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "said"),
    [
        (1024, r"Stable Diffusion 2\.x \(cross-attention 1024 wide\)"),
        (2048, "SDXL"),
        (96, "96 wide"),
    ],
)
def test_lora_of_another_family(tmp_path, sd15, width, said):
    path = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    kohya = pair("lora_unet_" + path.replace(".", "_"), c_in=width, c_out=1280)
    with pytest.raises(
        UserError, match=rf"a LoRA for .*{said}.*; this model is Stable Diffusion 1"
    ):
        read(saved(tmp_path, kohya), {"unet": sd15})


@pytest.mark.slow
@pytest.mark.parametrize("form", ["lora_unet_{flat}", "lora_unet_{original}", "unet.{dotted}"])
@pytest.mark.parametrize("width", [768, 2048])
def test_sd1_and_sdxl_are_told_apart_by_shapes(tmp_path, sd15, sdxl, form, width):
    """A layer that both have, of the UNet alone, under each kind of names."""
    dotted = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    original = "input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    name = form.format(flat=dotted.replace(".", "_"), original=original, dotted=dotted)
    ends = ("lora_A", "lora_B") if "." in name else ("lora_down", "lora_up")
    file = saved(tmp_path, pair(name, width, 640, 2, *ends))
    models = {768: {"unet": sd15}, 2048: sdxl}
    assert read(file, models[width])["unet"].keys() == {dotted}
    names = {768: r"Stable Diffusion 1\.x \(.* 768 wide\)", 2048: r"SDXL \(.* 2048 wide\)"}
    other = 768 + 2048 - width
    said = rf"is a LoRA for {names[width]}; this model is {names[other]}: name a LoRA of this"
    with pytest.raises(UserError, match=said) as error:
        read(file, models[other])
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_lora_of_sdxl_is_refused_by_names(tmp_path, sd15, sdxl):
    path = "output_blocks_0_1_transformer_blocks_9_attn1_to_q"
    file = saved(tmp_path, pair(f"lora_unet_{path}", 1280, 1280))
    with pytest.raises(UserError, match="is a LoRA for SDXL; this model is Stable Diffusion 1"):
        read(file, {"unet": sd15})
    assert len(read(file, sdxl)["unet"]) == 1
    text = pair("lora_te2_text_model_encoder_layers_31_self_attn_q_proj", 1280, 1280)
    file = saved(tmp_path, text)
    with pytest.raises(UserError, match="is a LoRA for SDXL"):
        read(file, {"unet": sd15})
    assert read(file, sdxl).keys() == {"text_encoder_2"}


def test_lora_of_another_text_encoder(tmp_path):
    path = "text_model.encoder.layers.0.self_attn.q_proj"
    text = nnx.Dict(self_attn=nnx.Dict(q_proj=nnx.Linear(768, 768, rngs=nnx.Rngs(0))))
    content = pair("lora_te_" + path.replace(".", "_"), 1024, 1024)
    with pytest.raises(UserError, match="for a text encoder 1024 wide; this model's is 768"):
        read(saved(tmp_path, content), {"text_encoder": text})


@pytest.mark.slow
def test_real_file_of_the_reference_script(test_data, sd15):
    file = test_data / "lora" / "catundchat_sd15.safetensors"
    lora = read(file, {"unet": sd15})
    assert len(lora["unet"]) == 128 and {a.scale for a in lora["unet"].values()} == {1.0}
    theirs = safetensors.TensorFile(file)
    total = sum(a.down.size + a.up.size for a in lora["unet"].values())
    assert total == sum(theirs[key].size for key in theirs) == 797_184
    assert lora["unet"].keys() <= slots(sd15).keys()
    without_model = read(file)["unet"]
    assert without_model.keys() == lora["unet"].keys()
    for path, adapter in without_model.items():
        np.testing.assert_array_equal(adapter.delta(), lora["unet"][path].delta())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cloneofsimo_lora_disney", "cloneofsimo_analog_svd_rank4"])
def test_real_file_of_cloneofsimo(test_data, sd15, name):
    with pytest.raises(UserError, match="cloneofsimo"):
        read(test_data / "lora" / f"{name}.safetensors", {"unet": sd15})
