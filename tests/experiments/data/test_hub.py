"""experiments.data.hub: image sets decode to exactly their pixels; what cannot be read gives a one-line error."""

import hashlib
import io
import json
import os
import shutil

import datasets
import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest
from mirrors import ARRAYS, draw, png, put, put_set, refused, spoil

from experiments.data.cache import load


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_are_exactly_the_pixels_and_classes_of_the_files(mirror, channels, capfd):
    drawn = put_set(mirror, channels, n=1030)
    for found in (load("some/set"), load("some/set"), load("some/set", verify=True)):
        for name, array in zip(ARRAYS, drawn, strict=True):
            np.testing.assert_array_equal(getattr(found, name), array, strict=True)
            assert isinstance(getattr(found, name), np.memmap) and not getattr(found, name).flags.writeable
            assert found.source["sha256"][name] == hashlib.sha256(array.tobytes()).hexdigest()
        assert found.classes == ("cat", "dog", "emu")
        expected = {"name": "some/set", "config": "plain", "image_column": "image", "label_column": "label"}
        expected |= {"from": "mirror", "datasets": datasets.__version__, "splits": {"train": "train", "test": "test"}}
        expected |= {"train": 1030, "test": 257, "shape": [6, 7, channels], "classes": 3}
        expected["files"] = [f"some/set/plain/{split}-00000-of-00001.parquet" for split in ("test", "train")]
        assert {key: value for key, value in found.source.items() if key != "sha256"} == expected
        json.dumps(found.source)
    assert capfd.readouterr().err == "", "where stderr is no terminal, there is nothing to read"


def test_known_names_and_hub_names_mean_the_same_set_and_other_columns_another(mirror, cache):
    columns = {"img": [png(p) for p in draw(6)], "fine_label": [0, 1, 2] * 2, "coarse_label": [0, 1] * 3}
    features = {"img": datasets.Image(), "fine_label": datasets.Value("int8"), "coarse_label": datasets.Value("int8")}
    for split in ("train", "test"):
        put(mirror, columns, split, "uoft-cs/cifar100", features=datasets.Features(features))
    assert load("cifar100").train_y.tolist() == load("uoft-cs/cifar100").train_y.tolist() == [0, 1, 2, 0, 1, 2]
    assert load("cifar100", label_column="coarse_label").train_y.tolist() == [0, 1] * 3
    assert len(list(cache.glob("*/meta.json"))) == 2


@pytest.mark.parametrize(
    ("kind", "values", "numbers", "classes"),
    [
        ("int64", [7, 3, 7, 5], [2, 0, 2, 1], ("3", "5", "7")),
        ("string", ["b", "a", "b", "c"], [1, 0, 1, 2], ("a", "b", "c")),
        ("bool", [True, False, True, True], [1, 0, 1, 1], ("False", "True")),
    ],
)
def test_classes_may_be_numbers_names_or_truth_values(mirror, kind, values, numbers, classes):
    features = datasets.Features({"photo": datasets.Image(), "what": datasets.Value(kind)})
    for split in ("train", "test"):
        put(mirror, {"photo": [png(p) for p in draw(4)], "what": values}, split, features=features)
    found = load("some/set", label_column="what")
    assert found.train_y.tolist() == found.test_y.tolist() == numbers and found.classes == classes


def test_files_that_do_not_say_that_they_hold_images_are_read_by_column_name(mirror):
    x = draw(4)
    for split in ("train", "test"):
        put(mirror, {"pic": [png(p) for p in x], "kind": [0, 1, 1, 0]}, split, features="none")
    np.testing.assert_array_equal(load("some/set", image_column="pic", label_column="kind").train_x, x)
    refused("of the columns pic, kind of some/set, none holds images; set image_column=", "some/set")


@pytest.mark.parametrize("wrapped", [False, True], ids=["bytes", "as datasets stores them"])
@pytest.mark.parametrize("names", [False, True], ids=["numbers", "names"])
def test_the_readmes_recipe_for_ones_own_data_needs_no_datasets_to_write_it(mirror, wrapped, names):
    """Plain parquet files do not mark images and classes, so the columns are found by their documented names."""
    (mirror / "me/mine/default").mkdir(parents=True)
    x, y = draw(6), [0, 1, 2] * 2
    pictures = [png(pixels) if wrapped else png(pixels)["bytes"] for pixels in x]
    columns = {"image": pictures, "label": ["abc"[k] for k in y] if names else y, "more": y}
    for split in ("train", "test"):
        pyarrow.parquet.write_table(pyarrow.table(columns), mirror / f"me/mine/default/{split}-0.parquet")
    found = load("me/mine")
    np.testing.assert_array_equal(found.train_x, x)
    assert found.test_y.tolist() == y and found.classes == (tuple("abc") if names else tuple("012"))


def test_of_several_columns_of_images_the_one_of_the_documented_name_is_taken(mirror):
    features = datasets.Features({"mask": datasets.Image(), "image": datasets.Image(), "label": datasets.Value("int8")})
    for split in ("train", "test"):
        columns = {"mask": [png(p) for p in draw(3, seed=1)], "image": [png(p) for p in draw(3)], "label": [0, 1, 2]}
        put(mirror, columns, split, features=features)
    np.testing.assert_array_equal(load("some/set").train_x, draw(3))


def test_grey_images_in_a_set_with_colour_become_grey_rgb_wherever_they_stand(mirror):
    grey, colour = draw(2, 1), draw(2, 3)
    for k, (first, second) in enumerate([(grey, colour), (colour, grey)]):
        pictures = [png(p) for p in (*first, *second)]
        for split in ("train", "test"):
            put(mirror, {"image": pictures, "label": [0, 1, 2, 0]}, split, name=f"some/set{k}")
        expected = np.concatenate(
            [np.repeat(first, 3 // first.shape[-1], -1), np.repeat(second, 3 // second.shape[-1], -1)]
        )
        np.testing.assert_array_equal(load(f"some/set{k}").train_x, expected)


def test_a_set_without_a_test_split_is_tested_on_its_validation_split_and_one_with_both_on_test(mirror):
    put_set(mirror)
    put(mirror, {"image": [png(p) for p in draw(2, seed=9)], "label": [0, 1]}, "validation")
    assert len(load("some/set").test_y) == 10
    (mirror / "some/set/plain/test-00000-of-00001.parquet").unlink()
    shutil.rmtree(os.environ["JBN_CACHE"])
    found = load("some/set")
    assert len(found.test_y) == 2 and found.source["splits"]["test"] == "validation"


def test_two_files_of_a_split_are_read_in_order_and_one_missing_is_an_error(mirror):
    x = draw(6)
    for k in range(2):
        columns = {"image": [png(p) for p in x[3 * k : 3 * k + 3]], "label": [0, 1, 2]}
        put(mirror, columns, part=f"0000{k}-of-00002")
    put(mirror, columns, "test")
    np.testing.assert_array_equal(load("some/set").train_x, x)
    shutil.rmtree(os.environ["JBN_CACHE"])
    (mirror / "some/set/plain/train-00000-of-00002.parquet").unlink()
    refused("has 1 of 2 files of train; copy the rest")


def tiff(pixels):
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "TIFF")
    return {"bytes": file.getvalue(), "path": None}


PICTURES = [png(p) for p in draw(4)]
NO_NUMBERS = tiff(np.full((6, 7), np.nan, np.float32))
SIXTEEN_BITS = png(np.ones((6, 7, 1), np.uint16))
GOOD = {"image": PICTURES, "label": [0, 1, 2, 0]}


@pytest.mark.parametrize(
    ("train", "test", "options", "message"),
    [
        (GOOD | {"label": [1] * 4}, GOOD, {}, "one class only in 'label', 'dog'; set label_column="),
        (
            GOOD | {"image": [*PICTURES[:3], png(draw(1, 3, 5, 9)[0])]},
            GOOD,
            {},
            "image 3 of train is 9 x 5 pixels, the first is 7 x 6",
        ),
        (
            GOOD,
            GOOD | {"image": [*PICTURES[:2], png(draw(1, 3, 5, 9)[0]), PICTURES[0]]},
            {},
            "image 2 of test is 9 x 5",
        ),
        (GOOD | {"image": [SIXTEEN_BITS] * 4}, GOOD, {}, "image 0 of train has pixels of PIL's mode I;16"),
        (GOOD | {"image": [NO_NUMBERS] * 4}, GOOD, {}, "image 0 of train has pixels of PIL's mode F, not of 8 bits"),
        (
            GOOD | {"image": [*PICTURES[:3], {"bytes": b"\x89PNG nonsense"}]},
            GOOD,
            {},
            "image 3 of train cannot be decoded",
        ),
        (GOOD | {"image": [PICTURES[0], None, *PICTURES[:2]]}, GOOD, {}, "image 1 of train is missing"),
        (GOOD, GOOD | {"label": [-1] * 4}, {}, "4 examples of test of some/set have -1 in 'label', which is no class"),
        (GOOD, {"image": PICTURES}, {}, "cannot read some/set"),
        (GOOD, None, {}, "some/set has no test split, only train; choose"),
        (GOOD, {"image": [], "label": []}, {}, "cannot read some/set in .*corresponds to no data"),
        (GOOD, GOOD, {"image_column": "imgae"}, "no column 'imgae', only image, label; did you mean 'image'?"),
        (GOOD, GOOD, {"label_column": "xyz"}, "no column 'xyz', only image, label; set label_column to one of them"),
        (GOOD, GOOD, {"label_column": "image"}, "'image' of some/set holds no classes but Image"),
        (GOOD, GOOD, {"image_column": "label"}, "column 'label' holds no images"),
        (GOOD | {"more": [1] * 4}, GOOD | {"more": [1] * 4}, {"label_column": "more"}, "one class only in 'more', 1"),
        (GOOD, GOOD, {"subset": "plian"}, "cannot read some/set from the hub"),
    ],
)
def test_bad_sets_and_columns_are_refused_in_one_line_and_leave_nothing_behind(
    mirror, cache, train, test, options, message
):
    put(mirror, train)
    if test is not None:
        put(mirror, test, "test")
    refused(message, "some/set", **options)
    assert [file.suffix for file in cache.iterdir()] == [".lock"]


def test_unknown_names_are_refused_with_the_nearest_right_one(cache):
    refused("no image set 'cifar_10'; did you mean 'cifar10'", "cifar_10")
    refused("no image set 'xyz'; choose one of mnist, fashion_mnist, cifar10, cifar100, or a set of the hub", "xyz")
    refused("no image set '../set'", "../set")
    assert not cache.exists()


def test_a_mirror_that_is_no_folder_has_two_configs_or_a_broken_file_is_refused(mirror, tmp_path):
    refused("the mirror .*nowhere is no folder; set JBN_DATA=", "mnist", mirror=tmp_path / "nowhere")
    put_set(mirror)
    spoil(mirror / "some/set/plain/train-00000-of-00001.parquet", "cut short")
    refused("cannot read some/set in .*; copy its files again")
    put_set(mirror, config="other")
    refused("some/set has the subsets other, plain; set subset='other'")
    assert len(load("some/set", subset="other").train_y) == 40
