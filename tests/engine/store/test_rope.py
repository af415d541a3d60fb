"""Tables of rotary embeddings: scalings, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from mlc_widget.api.errors import ModelFormatError, UnsupportedModelError
from mlc_widget.engine.store.rope import Rope, tables

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
    "original_max_position_embeddings": 64,
    "max_position_embeddings": 256,
}


def test_longrope_takes_its_factors_by_the_length_of_the_context():
    plain = Rope(1e4, 16)
    magnitude = np.sqrt(1 + np.log(4) / np.log(64))
    short, long = Rope(1e4, 16, LONG).table(64), Rope(1e4, 16, LONG).table(65)
    assert np.allclose(short[0], plain.table(64)[0] * magnitude, atol=1e-6)
    halves = np.arange(65)[:, None] * plain.frequencies() / 2
    assert np.allclose(long[1], np.sin(halves) * magnitude, atol=1e-5)


def test_yarn_keeps_high_frequencies_and_divides_low_ones():
    plain, scaled = Rope(1e4, 64).frequencies(), Rope(1e4, 64, YARN).frequencies()
    assert scaled[0] == plain[0]
    assert np.isclose(scaled[-1], plain[-1] / 4)
    assert (np.diff(plain / scaled) >= -1e-6).all()


@pytest.mark.parametrize(
    ("more", "magnitude"),
    [
        ({}, 0.1 * np.log(4) + 1),
        ({"attention_factor": 1.5}, 1.5),
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, 1.0),
        ({"factor": 1.0}, 1.0),
    ],
)
def test_yarn_sharpens_attention(more, magnitude):
    assert np.isclose(Rope(1e4, 64, {**YARN, **more}).magnitude(), magnitude)


def test_tables_of_several_embeddings_follow_each_other():
    cos, sin = tables([Rope(1e4, 32), Rope(1e6, 32)], 10)
    assert cos.shape == sin.shape == (20, 16)
    assert np.array_equal(cos[10:], Rope(1e6, 32).table(10)[0])
    assert tables([], 10)[0].shape == (10, 1)


@pytest.mark.parametrize(
    ("scaling", "error", "says"),
    [
        ({"rope_type": "dynamic"}, UnsupportedModelError, "dynamic.*yarn"),
        ({"rope_type": "yarn"}, ModelFormatError, "factor"),
        ({**YARN, "beta_fast": -1}, ModelFormatError, "beta_fast"),
        ({**LONG, "long_factor": [1.0] * 7}, ModelFormatError, "long_factor.*8 numbers"),
        ({**LONG, "short_factor": [0.0] * 8}, ModelFormatError, r"short_factor\.0"),
        ({**LONG, "original_max_position_embeddings": 0}, ModelFormatError, "original_max"),
    ],
)
def test_scalings_that_make_no_sense_are_refused(scaling, error, says):
    with pytest.raises(error, match=says):
        Rope(1e4, 16, scaling).table(128)
