"""Which options would do nothing in a mode, and are refused there."""

_CAPTIONS = ("train.text_encoder", "train.caption_dropout", "model.clip_skip", "sample.prompts")
_CAPTIONS += ("data.max_token_length",)
_UNET = ("train.remat", "model.prediction_type", "model.zero_snr", "sample.every")
_DDPM = ("sample.count",)
_ADAPTERS = (
    "model.base_dtype",
    "lora.start",
    "lora.dora",
    "lora.dropout",
    "lora.rank_dropout",
    "lora.module_dropout",
    "lora.max_norm",
)

# By the beginnings of their names. Most of lora's may stay: a config of mode lora becomes one of
# mode full, vae or textual_inversion by one flag.
IDLE: dict[str, tuple[str, ...]] = {
    "lora": _DDPM,
    "textual_inversion": (*_DDPM, *_ADAPTERS, "train.text_encoder"),
    "full": (*_DDPM, *_ADAPTERS, "tokens.names"),
    "vae": (
        *_DDPM,
        *_CAPTIONS,
        *_UNET,
        *_ADAPTERS,
        "tokens.names",
        "data.mask",
        "loss.",
        "timesteps.",
        "noise.",
    ),
    "ddpm": (
        *_CAPTIONS,
        "tokens.",
        "model.vae",
        "data.caption_column",
        "data.template",
        "data.wildcards",
        "data.shuffle_tags",
        "data.keep_",
        "data.tag_",
        "data.group_separator",
        "data.encode_once",
        "data.mask",
        "model.base_dtype",
        "lora.",
        "vae_loss.",
        "sample.guidance_scale",
    ),
}
