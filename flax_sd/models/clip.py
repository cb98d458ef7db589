"""CLIP's text model: token ids [b, n] to text states [b, n, d] that the UNet attends to.

Radford et al. 2021 (arXiv 2103.00020), §2.4; names are those of transformers' `CLIPTextModel` in
the files on the hub, which begin with `text_model.`.
"""

import dataclasses
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jaxtyping import Array, Float, Int

from flax_sd.errors import UserError
from flax_sd.files.json_values import JsonObject
from flax_sd.models import layers
from flax_sd.models.config_json import Width, read_config
from flax_sd.models.layers import Network

LEGACY_EOS = 2  # what the hub's configs say
END_OF_TEXT = 49407  # the tokenizer's, its largest id


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPTextConfig:
    """The fields of a `text_encoder/config.json` that shape the network; defaults of transformers.

    Raises UserError if the heads do not divide the width.
    """

    vocab_size: Width = 49408
    hidden_size: Width = 512
    intermediate_size: Width = 2048
    num_hidden_layers: Annotated[int, pydantic.Field(ge=0, le=100)] = 12
    num_attention_heads: Width = 8
    max_position_embeddings: Width = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: Annotated[float, pydantic.Field(ge=0, le=1)] | None = 0.0  # in training
    eos_token_id: Annotated[int, pydantic.Field(ge=0, lt=2**31)] = 49407

    @classmethod
    def from_json(
        cls, raw: JsonObject, where: str = "text_encoder/config.json"
    ) -> "CLIPTextConfig":
        """Reads transformers' config, or that of a whole CLIP, which holds it in `text_config`.

        Raises UserError that names every field not supported.
        """
        inner = raw.get("text_config")
        raw = inner if isinstance(inner, dict) else raw
        return read_config(cls, raw, {}, where, choices={"hidden_act": tuple(ACTIVATIONS)})

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"num_attention_heads {self.num_attention_heads} does not divide"
                f" hidden_size {self.hidden_size}"
            )


def quick_gelu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Computes x · σ(1.702 x), with which OpenAI's models were trained."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": layers.gelu, "gelu_python": layers.gelu}


class TextStates(NamedTuple):
    """The text model's states of a batch of prompts."""

    text: jax.Array  # [b, n, d]
    # [b, d], the last layer's normed state at the end token, projected in SDXL; None where no
    # network reads it
    pooled: jax.Array | None = None


class NewTokens(nnx.Variable):
    """[k, d] float32, embeddings of tokens that the vocabulary lacks; no part of a checkpoint."""


class CLIPTextEmbeddings(nnx.Module):
    """Token embedding + position embedding.

    Attributes:
      new_tokens: embeddings of the ids past the table's end, if there are any.
    """

    def __init__(self, config: CLIPTextConfig, *, rngs: nnx.Rngs):
        width, init = config.hidden_size, nnx.initializers.normal(0.02)
        self.token_embedding = nnx.Embed(config.vocab_size, width, embedding_init=init, rngs=rngs)
        self.position_embedding = nnx.Embed(
            config.max_position_embeddings, width, embedding_init=init, rngs=rngs
        )
        self.new_tokens: NewTokens | None = nnx.data(None)

    def __call__(self, ids: Int[Array, "b n"]) -> Float[Array, "b n d"]:
        # Indexed here because nnx.Embed keeps to the dtype it was made in.
        positions = self.position_embedding.embedding[: ids.shape[1]]
        return self._tokens(ids) + positions

    def _tokens(self, ids: Int[Array, "b n"]) -> Float[Array, "b n d"]:
        table = self.token_embedding.embedding
        if self.new_tokens is None:
            return table[ids]
        # Two look-ups, so that the gradient is of the new rows alone and no table is put together.
        last, new = len(table) - 1, self.new_tokens[...].astype(table.dtype)
        old = table[jnp.minimum(ids, last)]
        return jnp.where((ids > last)[..., None], new[jnp.maximum(ids - last - 1, 0)], old)


class CLIPAttention(nnx.Module):
    """Multi-headed attention of each token to itself and those before it."""

    def __init__(self, config: CLIPTextConfig, *, rngs: nnx.Rngs):
        width, self.heads = config.hidden_size, config.num_attention_heads
        std = _inner_std(config)
        self.q_proj = _linear(width, width, std, rngs)
        self.k_proj = _linear(width, width, std, rngs)
        self.v_proj = _linear(width, width, std, rngs)
        self.out_proj = _linear(width, width, width**-0.5, rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        q, k, v = (
            tokens.reshape(*x.shape[:2], self.heads, -1)  # [b, n, k, d]
            for tokens in (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        )
        causal = jnp.tri(x.shape[1], dtype=bool)
        return self.out_proj(layers.attention(q, k, v, causal).reshape(x.shape))


class CLIPMLP(nnx.Module):
    """fc2(act(fc1(x)))."""

    def __init__(self, config: CLIPTextConfig, *, rngs: nnx.Rngs):
        width, inner = config.hidden_size, config.intermediate_size
        self.act = config.hidden_act
        self.fc1 = _linear(width, inner, (2 * width) ** -0.5, rngs)
        self.fc2 = _linear(inner, width, _inner_std(config), rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.fc2(ACTIVATIONS[self.act](self.fc1(x)))


class CLIPEncoderLayer(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: CLIPTextConfig, *, rngs: nnx.Rngs):
        width, epsilon = config.hidden_size, config.layer_norm_eps
        self.layer_norm1 = layers.layer_norm(width, epsilon, rngs=rngs)
        self.self_attn = CLIPAttention(config, rngs=rngs)
        self.layer_norm2 = layers.layer_norm(width, epsilon, rngs=rngs)
        self.mlp = CLIPMLP(config, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class CLIPEncoder(nnx.Module):
    """The layers, one after another."""

    def __init__(self, config: CLIPTextConfig, *, rngs: nnx.Rngs):
        n = config.num_hidden_layers
        self.layers = nnx.List([CLIPEncoderLayer(config, rngs=rngs) for _ in range(n)])

    def __call__(self, x: Float[Array, "b n d"]) -> list[Array]:
        """Returns the states before the first layer and after each."""
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return states


class CLIPTextTransformer(nnx.Module):
    """Embeddings, layers, last norm: what stands under `text_model` in a file."""

    def __init__(self, config: CLIPTextConfig, *, rngs: nnx.Rngs):
        self.embeddings = CLIPTextEmbeddings(config, rngs=rngs)
        self.encoder = CLIPEncoder(config, rngs=rngs)
        self.final_layer_norm = layers.layer_norm(
            config.hidden_size, config.layer_norm_eps, rngs=rngs
        )


class CLIPTextModel(Network):
    """CLIP-L's text model (SD 1.x) or OpenCLIP-H's (SD 2.x, whose config leaves out a layer).

    New weights are drawn as in OpenAI's code and transformers.
    """

    def __init__(self, config: CLIPTextConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.text_model = CLIPTextTransformer(config, rngs=rngs)

    def __call__(self, ids: Int[Array, "b n"], skip: int = 0, *, normed: bool = True) -> TextStates:
        """Returns the text states in the parameters' dtype.

        Args:
          ids: begin token, words, end token, padding; at most as many as there are positions.
          skip: how many of the last layers `text` does without (diffusers' `clip_skip`); `pooled`
            has them all.
          normed: the last norm is applied to `text`; it always is to `pooled`.

        Raises:
          UserError: there are not as many layers, or more ids than positions.
        """
        config, model = self.config, self.text_model
        if not 0 <= skip <= config.num_hidden_layers:
            raise UserError(
                f"clip_skip is {skip}: this text encoder has {config.num_hidden_layers} layers"
            )
        if ids.shape[1] > config.max_position_embeddings:
            raise UserError(
                f"a prompt of {ids.shape[1]} tokens: this text encoder reads"
                f" {config.max_position_embeddings} at most"
            )
        states = model.encoder(model.embeddings(ids))
        last = model.final_layer_norm(states[-1])
        pooled = last[jnp.arange(len(ids)), jnp.argmax(ids == self._end, 1)]
        text = states[-1 - skip]
        if normed:
            text = model.final_layer_norm(text) if skip else last
        return TextStates(text, pooled)

    @property
    def _end(self) -> int:
        """The id of the end token, of which the first is pooled at.

        Where the config has the old number, transformers takes the largest id: with a learned
        token, whose id is larger, that is another place (huggingface/transformers#24650).
        """
        if self.config.eos_token_id != LEGACY_EOS:
            return self.config.eos_token_id
        return min(END_OF_TEXT, self.config.vocab_size - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPTextProjectionConfig(CLIPTextConfig):
    """The fields of a config of `CLIPTextModelWithProjection`; defaults of transformers."""

    projection_dim: Width = 512


class CLIPTextModelWithProjection(CLIPTextModel):
    """OpenCLIP-bigG's text model, SDXL's second: the pooled state is projected."""

    def __init__(self, config: CLIPTextProjectionConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        width = config.hidden_size
        init = nnx.initializers.normal(width**-0.5)
        self.text_projection = nnx.Linear(
            width, config.projection_dim, use_bias=False, kernel_init=init, rngs=rngs
        )

    def __call__(self, ids: Int[Array, "b n"], skip: int = 0, *, normed: bool = True) -> TextStates:
        """Returns the text states and the projection of the pooled one; see `CLIPTextModel`."""
        states = super().__call__(ids, skip, normed=normed)
        assert states.pooled is not None
        return states._replace(pooled=self.text_projection(states.pooled))


def _inner_std(config: CLIPTextConfig) -> float:
    return config.hidden_size**-0.5 * (2 * config.num_hidden_layers) ** -0.5


def _linear(c_in: int, c_out: int, std: float, rngs: nnx.Rngs) -> nnx.Linear:
    """Returns a linear map with weights from N(0, std²)."""
    return nnx.Linear(c_in, c_out, kernel_init=nnx.initializers.normal(std), rngs=rngs)
