"""The data of the scenes: packed as it is read, with its origin, and the same each time it is made."""

from __future__ import annotations

import base64
import importlib
import json

import numpy as np
import pytest

from explainer import data


def test_arrays_are_packed_row_by_row():
    packed = data.plain(np.arange(6, dtype=np.float32).reshape(2, 3).T)
    assert packed["shape"] == [3, 2] and packed["dtype"] == "float32"
    numbers = np.frombuffer(base64.b64decode(packed["base64"]), np.float32)
    assert numbers.tolist() == [0, 3, 1, 4, 2, 5]


def test_an_array_that_the_page_cannot_unpack_is_refused():
    with pytest.raises(TypeError, match="float64"):
        data.plain({"x": np.zeros(3)})


def test_a_value_keeps_how_it_was_measured():
    assert data.plain(data.Value(0.5, "%", n=20, sd=0.1, seed="0 to 19")) == {
        **{"value": 0.5, "unit": "%", "n": 20, "sd": 0.1, "seed": "0 to 19"}
    }


def test_data_is_made_again_only_if_its_inputs_have_changed(tmp_path, monkeypatch):
    data.write(tmp_path, only=("standardize",))
    path = tmp_path / "standardize.json"
    path.write_text(path.read_text().replace('"source"', '"found"'))
    data.write(tmp_path, only=("standardize",))
    assert '"found"' in path.read_text()
    monkeypatch.setattr(data, "inputs", lambda scene: "others")
    data.write(tmp_path, only=("standardize",))
    assert '"source"' in path.read_text() and json.loads(path.read_text())["provenance"]["versions"]["jax"]


@pytest.mark.browser  # it looks at the built site
@pytest.mark.parametrize("scene", data.scenes())
def test_data_is_the_same_each_time_it_is_made(scene):
    path = data.BUILT / f"{scene}.json"
    if not path.exists():
        pytest.skip("the site is not built: make site")
    built = json.loads(path.read_text())
    if built["inputs"] != data.inputs(scene):
        pytest.skip("the site was built from other files: make site")
    made = json.loads(json.dumps(data.plain(importlib.import_module(f"explainer.data.{scene}").data())))
    assert made == {key: value for key, value in built.items() if key not in ("provenance", "inputs")}
