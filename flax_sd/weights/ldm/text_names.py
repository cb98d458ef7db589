"""The text encoders' modules: CLIP under transformers' own names, and OpenCLIP."""

from collections.abc import Iterator

from flax_sd.weights.ldm.renaming import Renaming

_LAYERS = 100  # more than any text encoder has
_WHOLE = ("text_projection", "logit_scale")
_INSIDE = ("embeddings", "encoder", "final_layer_norm")
_BLOCK = [
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
    ("attn.q", "self_attn.q_proj"),  # packed in the file
    ("attn.k", "self_attn.k_proj"),
    ("attn.v", "self_attn.v_proj"),
    ("attn.out_proj", "self_attn.out_proj"),
]

# transformers' names, which original files keep.
CLIP = Renaming((name, name) for name in ("text_model", *_WHOLE))
# The dialect of files that were saved without the level `text_model`.
BARE_CLIP = Renaming(
    [*((name, f"text_model.{name}") for name in _INSIDE), *((name, name) for name in _WHOLE)]
)


def _open_clip() -> Iterator[tuple[str, str]]:
    yield "token_embedding", "text_model.embeddings.token_embedding"
    yield "positional_embedding", "text_model.embeddings.position_embedding.weight"
    yield "ln_final", "text_model.final_layer_norm"
    # Dialects that hold torch's Linear, such as Playground v2's; the last is the name that is
    # written.
    yield "text_projection.weight.weight", "text_projection.weight"
    yield "text_projection.weight", "text_projection.weight"
    yield "text_projection", "text_projection.weight"
    yield "logit_scale", "logit_scale"
    # A constant that OpenCLIP lacks and old files of transformers have; ComfyUI writes it so.
    ids = "text_model.embeddings.position_ids"
    yield f"transformer.{ids}", ids
    for layer in range(_LAYERS):
        for ours, theirs in _BLOCK:
            ldm = f"transformer.resblocks.{layer}.{ours}"
            yield ldm, f"text_model.encoder.layers.{layer}.{theirs}"


OPEN_CLIP = Renaming(_open_clip())
