"""experiments.store.right: what is packed comes out again, and a text of another test set is refused."""

import base64

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from experiments.store.right import pack_right, unpack_right


@hypothesis.given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_what_is_packed_comes_out_again(correct):
    found = unpack_right(pack_right(correct), len(correct))
    np.testing.assert_array_equal(found, correct, strict=True)


def test_the_text_is_the_base64_of_numpys_packed_bits():
    correct = np.random.default_rng(0).uniform(size=450) < 0.9
    assert pack_right(correct) == base64.b64encode(np.packbits(correct).tobytes()).decode()
    assert len(pack_right(correct)) == 76


@pytest.mark.parametrize(
    ("text", "examples", "says"),
    [
        ("oA=", 3, "^is no base64$"),
        ("o-==", 3, "^is no base64$"),
        ("é===", 3, "^is no base64$"),
        ("oA==", 9, "^has 1 bytes, but the bits of 9 examples are 2$"),
        ("oA==", 0, "^has 1 bytes, but the bits of 0 examples are 0$"),
        ("oA==", 2, "^has bits after those of the 2 examples$"),
    ],
)
def test_a_text_that_is_damaged_or_of_another_test_set_is_refused(text, examples, says):
    with pytest.raises(ValueError, match=says):
        unpack_right(text, examples)
