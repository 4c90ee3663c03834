from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from shared_data import unpack
from tiny_data import save, write_domains, write_pairs

from pas_trainer import DataConfig, DataError
from pas_trainer.data import load_pairs, open_pairs
from pas_trainer.data.batches import Share
from pas_trainer.data.pair_batches import cropped
from pas_trainer.data.pictures import MemoryPictures


@pytest.fixture
def paired(tmp_path):
    return write_pairs(tmp_path, train=9, val=3, test=4)


@pytest.fixture
def unpaired(tmp_path):
    return write_domains(tmp_path, trainA=10, trainB=6, testA=5, testB=2)


def config(folder, name="paired", **changes) -> DataConfig:
    values = {"name": name, "root": str(folder), "image_size": 24, "validation": 0.2, "workers": 0}
    return DataConfig(**{**values, **changes})


def lengths(data) -> list[int]:
    return [len(split) for split in (data.train, data.validation, data.test)]


def same(first, second) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, c) and torch.equal(b, d)
        for (a, b), (c, d) in zip(first, second, strict=True)
    )


def test_halves_are_input_and_target(paired):
    data = load_pairs(config(paired))
    assert data.paired
    assert (data.channels, data.classes, data.mean, data.std) == (3, (), (0.5,) * 3, (0.5,) * 3)
    inputs, targets = next(data.test.eval_batches(4))
    assert inputs.shape == targets.shape == (4, 3, 24, 24)
    assert inputs.dtype == targets.dtype == torch.uint8
    whole = np.array(Image.open(paired / "test" / "2.png"))
    assert torch.equal(inputs[2], torch.from_numpy(whole[:, :24]).permute(2, 0, 1))
    assert torch.equal(targets, 255 - inputs)


def test_the_direction_turns_pairs_around(paired):
    there, back = (
        list(load_pairs(config(paired, direction=which)).train.train_batches(4, 0))
        for which in ("a_to_b", "b_to_a")
    )
    assert same(there, [(b, a) for a, b in back])


def test_both_halves_are_cropped_and_mirrored_alike(paired):
    data = load_pairs(config(paired))
    plain, different = list(data.train.eval_batches(9)), 0
    for inputs, targets in data.train.train_batches(3, 7):
        # Halves are each other's negatives, and interpolation is linear but for rounding and
        # overshoot, which is cut off.
        assert ((inputs.int() + targets.int() - 255).abs() <= 1).float().mean() > 0.99
        different += sum(not (image == plain[0][0]).flatten(1).all(1).any() for image in inputs)
    assert different == 9


def test_what_is_not_augmented_stays_as_it_is(paired):
    data = load_pairs(config(paired, augment=False))
    inputs, targets = next(data.train.train_batches(9, 0))
    plain, _ = next(data.train.eval_batches(9))
    assert torch.equal(inputs.flatten(1).sum(1).sort()[0], plain.flatten(1).sum(1).sort()[0])
    assert torch.equal(targets, 255 - inputs)


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        ({"train": 10, "val": 3, "test": 4}, [10, 3, 4]),
        ({"train": 10, "test": 4}, [8, 2, 4]),
        ({"train": 10, "val": 3}, [8, 2, 3]),
    ],
)
def test_validation_is_held_out_unless_it_has_a_folder(tmp_path, folders, expected):
    sources = open_pairs(config(write_pairs(tmp_path, **folders)))
    assert lengths(sources) == expected
    files = [sources.train.inputs, sources.validation.inputs, sources.test.inputs]
    assert len({path for part in files for path in part}) == sum(expected)


def test_limits(paired, tmp_path):
    limits = {"train_images": 5, "test_images": 2}
    assert lengths(open_pairs(config(paired, **limits))) == [5, 2, 2]


@given(size=st.integers(1, 6), seed=st.integers(0, 1000))
def test_crops_are_plain_slices(size, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 255, (3, 2, 8, 8), dtype=torch.uint8, generator=generator)
    shifts = torch.randint(0, 8 - size + 1, (3, 2), generator=generator)
    mirrored = torch.tensor([True, False, True])
    made = cropped(images, shifts, mirrored, size)
    for image, (row, column), flip, found in zip(
        images, shifts.tolist(), mirrored, made, strict=True
    ):
        square = image[:, row : row + size, column : column + size]
        assert torch.equal(found, square.flip(2) if flip else square)


@pytest.mark.parametrize("name", ["paired", "unpaired"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_from_memory_and_from_disk(tmp_path, name, workers):
    write_pairs(tmp_path, train=9, test=4)
    write_domains(tmp_path, trainA=10, trainB=6, testA=5, testB=2)
    before = torch.get_rng_state()
    memory = load_pairs(config(tmp_path, name)).train
    disk = load_pairs(config(tmp_path, name, memory_gib=0.0, workers=workers)).train
    assert isinstance(memory.pictures[0], MemoryPictures)
    assert not isinstance(disk.pictures[0], MemoryPictures)
    assert same(list(memory.train_batches(3, 5)), list(disk.train_batches(3, 5)))
    assert same(list(memory.eval_batches(3)), list(disk.eval_batches(3)))
    assert torch.equal(before, torch.get_rng_state())
    assert same(list(memory.train_batches(3, 5)), list(memory.train_batches(3, 5)))
    assert not same(list(memory.train_batches(3, 5)), list(memory.train_batches(3, 6)))


@pytest.mark.parametrize("name", ["paired", "unpaired"])
def test_shares_of_workers_make_up_the_whole(tmp_path, name):
    write_pairs(tmp_path, train=9, test=4)
    write_domains(tmp_path, trainA=10, trainB=6, testA=5, testB=2)
    split = load_pairs(config(tmp_path, name)).train
    for read in (lambda s: split.train_batches(3, 3, s), lambda s: split.eval_batches(3, s)):
        whole, even, odd = (list(read(share)) for share in (Share(), Share(0, 2), Share(1, 2)))
        for parts, first, second in zip(whole, even, odd, strict=True):
            for part, one, other in zip(parts, first, second, strict=True):
                assert torch.equal(part[::2], one)
                assert torch.equal(part[1::2], other)


def test_an_epoch_goes_over_the_inputs_and_all_of_the_other_domain(unpaired):
    data = load_pairs(config(unpaired, "unpaired"))
    assert not data.paired
    assert lengths(data) == [8, 2, 5]  # of A; of B 5, 1 and 2
    for inputs, targets in [next(data.train.train_batches(8, seed)) for seed in (0, 1)]:
        a, b = (sorted(image.float().mean().item() for image in part) for part in (inputs, targets))
        assert len(set(a)) == 8
        assert all(value % 10 == 0 for value in a)
        assert all(value % 10 == 5 for value in b)
        assert len(set(b)) == 5
        assert max(b.count(value) for value in b) == 2  # none thrice before all were there once


def test_evaluation_begins_the_other_domain_again(unpaired):
    inputs, targets = next(load_pairs(config(unpaired, "unpaired")).test.eval_batches(5))
    assert inputs[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40]
    assert targets[:, 0, 0, 0].tolist() == [5, 15, 5, 15, 5]
    data = load_pairs(config(unpaired, "unpaired", direction="b_to_a"))
    assert lengths(data) == [5, 1, 2]
    inputs, targets = next(data.test.eval_batches(5))
    assert inputs[:, 0, 0, 0].tolist() == [5, 15]
    assert targets[:, 0, 0, 0].tolist() == [0, 10]


@pytest.mark.parametrize("name", ["paired", "unpaired"])
def test_the_fingerprint_follows_files_and_direction(tmp_path, name):
    write_pairs(tmp_path, train=9, test=4)
    write_domains(tmp_path, trainA=10, trainB=6, testA=5, testB=2)
    before = open_pairs(config(tmp_path, name)).fingerprint()
    assert open_pairs(config(tmp_path, name)).fingerprint() == before
    assert open_pairs(config(tmp_path, name, direction="b_to_a")).fingerprint() != before
    (tmp_path / "test" / "0.png").unlink()
    (tmp_path / "testB" / "00.png").unlink()
    assert open_pairs(config(tmp_path, name)).fingerprint() != before


@pytest.mark.parametrize(
    ("shape", "why"), [((30, 24, 3), "no wider than tall"), ((24, 49, 3), "of odd width")]
)
def test_images_that_are_not_two_halves_are_named(paired, shape, why):
    save(paired / "val" / "1.png", np.zeros(shape))
    with pytest.raises(DataError, match=rf"1\.png is {why} \({shape[1]}x{shape[0]}\)"):
        open_pairs(config(paired))


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="train does not exist"):
        open_pairs(config(tmp_path))
    with pytest.raises(DataError, match="trainA does not exist"):
        open_pairs(config(tmp_path, "unpaired"))
    write_pairs(tmp_path, train=2)
    with pytest.raises(DataError, match="has neither test nor val"):
        open_pairs(config(tmp_path))
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match="test holds no images"):
        open_pairs(config(tmp_path))
    write_domains(tmp_path, trainA=1, trainB=3, testA=1, testB=1)
    with pytest.raises(DataError, match="1 training images to split; at least 2"):
        open_pairs(config(tmp_path, "unpaired"))


@pytest.mark.parametrize("memory_gib", [1.0, 0.0])
def test_an_undecodable_image_is_named(paired, memory_gib):
    broken = paired / "train" / "5.png"
    broken.write_bytes(broken.read_bytes()[:200])  # the header is whole
    settings = config(paired, memory_gib=memory_gib)
    with pytest.raises(DataError, match=r"5\.png") as caught:
        list(load_pairs(settings).train.train_batches(4, 0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"direction": "both"}, "direction is 'both'; known: a_to_b, b_to_a"),
        ({"image_size": None}, "image_size is missing; paired needs it"),
        ({"image_size": 8}, "image_size is 8; paired needs at least 16"),
        ({"root": None}, "root is missing; paired needs"),
        ({"root": "s3://bucket/x"}, "paired reads a folder"),
        ({"name": "coco", "direction": "b_to_a"}, "'b_to_a', but coco has no two domains"),
        ({"name": "coco", "image_size": None}, "image_size is missing; coco needs it"),
        ({"name": "pix2pix"}, "known: digits, .*, penn_fudan, coco, paired, unpaired"),
    ],
)
def test_settings_out_of_range_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        config("x", **wrong)


def test_real_pairs_belong_together(tmp_path):
    root = unpack("facades.tar", tmp_path)
    limits = {"train_images": 8, "test_images": 8}
    data = load_pairs(config(root, image_size=64, direction="b_to_a", **limits))
    assert lengths(data) == [8, 8, 8]
    labels, photos = next(data.train.train_batches(8, 0))
    # Labels are a dozen colours (and what JPEG made of them): blue walls above all.
    assert labels.float().mean(dim=(0, 2, 3)).argmax() == 2
    assert labels.float().std() > photos.float().std()
