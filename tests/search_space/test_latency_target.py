import json
from dataclasses import replace

import pytest
import torch

from search_space.latency import LatencyGrid, LatencyTable
from search_space.latency_target import LatencyTarget, read_table, table_path, write_table

TARGET = LatencyTarget()
ONE = LatencyGrid((1,), (1, 8), ((0.5, 1.0),))


def test_key_names_all_that_a_time_depends_on():
    assert "1 thread," in TARGET.key
    assert f"torch {torch.__version__}" in TARGET.key
    changes = [
        {"num_threads": 2},
        {"batch_size": 8},
        {"dtype": "bfloat16"},
        {"channels_last": True},
    ]
    keys = {replace(TARGET, **change).key for change in changes}
    assert len(keys | {TARGET.key}) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_threads": 0}, "num_threads is 0; it must be at least 1"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"dtype": "int8"}, "dtype is 'int8'; it must be one of float32"),
        ({"device": "gpu"}, "device 'gpu' cannot be used"),
        ({"device": "meta"}, "device is 'meta'; latency is measured on cpu or cuda"),
    ],
)
def test_wrong_target_is_one_sentence(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TARGET, **change).check()


def test_tables_are_kept_by_device_and_joined(tmp_path):
    folder = tmp_path / "new" / "folder"
    assert read_table(folder, TARGET) == LatencyTable(TARGET.key, {}, {})
    write_table(folder, TARGET, LatencyTable(TARGET.key, {"one": ONE}, {"net": 2.0}))
    write_table(folder, TARGET, LatencyTable(TARGET.key, {"two": ONE}, {}))
    other = replace(TARGET, num_threads=2)
    write_table(folder, other, LatencyTable(other.key, {"three": ONE}, {}))
    kept = LatencyTable(TARGET.key, {"one": ONE, "two": ONE}, {"net": 2.0})
    assert read_table(folder, TARGET) == kept
    assert read_table(folder, other).grids == {"three": ONE}
    assert len(list(folder.iterdir())) == 2  # nothing temporary is left


def test_without_a_folder_nothing_is_kept():
    write_table(None, TARGET, LatencyTable(TARGET.key, {"one": ONE}, {}))
    assert read_table(None, TARGET).grids == {}


@pytest.mark.parametrize("text", ["", "not json", "[1]", json.dumps({"grids": {"one": 1}})])
def test_damaged_file_is_one_sentence(tmp_path, text):
    path = table_path(tmp_path, TARGET)
    path.write_text(text)
    with pytest.raises(ValueError, match=r"latency-.*\.json is damaged .*; delete it to measure"):
        read_table(tmp_path, TARGET)


def test_a_file_of_another_device_is_refused(tmp_path):
    path = table_path(tmp_path, TARGET)
    path.write_text(LatencyTable("a toaster", {}, {}).to_json())
    with pytest.raises(ValueError, match="was measured on a toaster, not on"):
        read_table(tmp_path, TARGET)
