"""Numbers that are not finite, in tensors that are read and that are not."""

import logging

import ml_dtypes
import numpy as np
import pytest

from flax_sd.errors import UserError
from flax_sd.weights.ldm.finite import broken_unused

LAYER = "text_model.encoder.layers.{}.mlp.fc1.weight"


def text(**broken):
    tensors = {LAYER.format(i): np.ones((2, 2), np.float16) for i in range(3)}
    return {**tensors, "text_model.final_layer_norm.bias": np.ones(2, np.float16), **broken}


def test_the_last_layer_of_sdxls_first_text_encoder_may_be_broken(caplog):
    """Trap 6."""
    tensors = text(**{LAYER.format(2): np.full((2, 2), np.nan, np.float16)})
    with caplog.at_level(logging.WARNING, "flax_sd"):
        assert broken_unused(tensors, "text_encoder", "sdxl", "x") == [LAYER.format(2)]
    assert "x: NaN or infinite, but never read: text_model.encoder.layers.2" in caplog.text
    with pytest.raises(UserError, match="x is damaged: its text_encoder has numbers that are NaN"):
        broken_unused(tensors, "text_encoder", "sd1", "x")
    with pytest.raises(UserError, match="its text_encoder_2 has numbers"):
        broken_unused(tensors, "text_encoder_2", "sdxl", "x")


def test_a_layer_that_is_read():
    tensors = text(**{LAYER.format(1): np.full((2, 2), np.inf, np.float16)})
    with pytest.raises(UserError, match=r"infinite in text_model.encoder.layers.1.mlp.fc1.weight;"):
        broken_unused(tensors, "text_encoder", "sdxl", "x")
    assert not broken_unused(text(), "text_encoder", "sdxl", "x")


def test_broken_position_ids_do_not_matter():
    """Trap 5."""
    ids = {"text_model.embeddings.position_ids": np.full((1, 77), np.nan, np.float16)}
    broken_unused(text(**ids), "text_encoder", "sd1", "x")


def test_numbers_of_eight_bits():
    """Trap 24."""
    eight = {LAYER.format(0): np.ones((2, 2), ml_dtypes.float8_e5m2)}
    broken_unused(eight, "text_encoder", "sd1", "x")
    eight[LAYER.format(0)][0, 0] = np.inf
    with pytest.raises(UserError, match="x is damaged"):
        broken_unused(eight, "text_encoder", "sd1", "x")
