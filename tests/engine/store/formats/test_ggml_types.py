import gguf
import numpy as np
import pytest

from mlc_widget.engine.store.formats.ggml_types import GGML_TYPES, dequantize
from tests.engine.store.formats.gguf_writer import READABLE


@pytest.mark.parametrize("kind", GGML_TYPES.values(), ids=lambda kind: kind.name)
def test_sizes_are_the_reference_s(kind):
    reference = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind.id)]
    assert (kind.block, kind.nbytes) == reference
    assert gguf.GGMLQuantizationType(kind.id).name == kind.name


@pytest.mark.parametrize("kind", READABLE, ids=lambda kind: kind.name)
def test_weights_are_the_reference_s_to_the_bit(kind):
    inputs, random = 512, np.random.default_rng(kind.id)
    data = random.integers(0, 256, (64, inputs // kind.block * kind.nbytes), dtype=np.uint8)
    with np.errstate(all="ignore"):  # random scales may be infinite, or no numbers
        expected = gguf.quants.dequantize(data, gguf.GGMLQuantizationType(kind.id))
        weights = dequantize(kind, data, inputs)
    finite = np.isfinite(expected)
    assert finite.mean() > 0.5
    assert weights.shape == expected.shape
    assert np.array_equal(weights.view(np.uint32)[finite], expected.view(np.uint32)[finite])
