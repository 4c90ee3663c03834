from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from shared_data import unpack
from tiny_data import save, write_penn_fudan

from pas_trainer import DataConfig, DataError
from pas_trainer.data import load_instances, open_instances
from pas_trainer.data.batches import Share
from pas_trainer.data.instance_batches import decode_item, load_instance_split, mirrored


@pytest.fixture
def folder(tmp_path):
    return write_penn_fudan(tmp_path)


def config(folder, **changes) -> DataConfig:
    values = {"name": "penn_fudan", "root": str(folder), "image_size": 31, "validation": 0.25}
    return DataConfig(**{**values, "workers": 0, **changes})


def all_of(sources):
    return [*sources.train, *sources.validation, *sources.test]


def same(first, second) -> bool:
    """Whether two lists of batches are equal to the last bit."""
    return len(first) == len(second) and all(
        len(a) == len(c)
        and all(map(torch.equal, a, c))
        and all(b[i].keys() == d[i].keys() for i in range(len(b)))
        and all(torch.equal(b[i][name], d[i][name]) for i in range(len(b)) for name in b[i])
        for (a, b), (c, d) in zip(first, second, strict=True)
    )


def test_every_image_is_in_one_split(folder):
    sources = open_instances(config(folder))
    assert [len(s) for s in (sources.train, sources.validation, sources.test)] == [9, 3, 5]
    assert len({image.path for image in all_of(sources)}) == 17
    assert sources.classes == ("pedestrian",)
    assert (sources.channels, sources.image_size) == (3, 31)


def test_the_splits_depend_on_their_seed_alone(folder):
    first, again, other = (
        [image.path for image in all_of(open_instances(config(folder, split_seed=seed)))]
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_limits_leave_the_other_splits_as_they_are(folder):
    whole, limited = (
        open_instances(config(folder, **limits))
        for limits in ({}, {"train_images": 8, "test_images": 3})
    )
    assert [len(s) for s in (limited.train, limited.validation, limited.test)] == [6, 2, 3]
    assert set(limited.test) < set(whole.test)
    assert not set(limited.train) & set(whole.test)


def test_items_are_what_was_drawn(folder):
    image = next(i for i in all_of(open_instances(config(folder))) if i.num_objects == 2)
    pixels, target = decode_item(image, max(image.width, image.height))
    assert torch.equal(pixels, torch.from_numpy(np.array(Image.open(image.path))).permute(2, 0, 1))
    assert target["boxes"].tolist() == [[4, 4, 10, 11], [14, 4, 20, 12]]
    assert target["labels"].tolist() == [1, 1]
    assert target["masks"].sum(dim=(1, 2)).tolist() == [6 * 7, 6 * 8]
    types = {name: values.dtype for name, values in target.items()}
    assert types == {"boxes": torch.float32, "labels": torch.int64, "masks": torch.uint8}


@given(size=st.integers(8, 70), which=st.integers(0, 16))
def test_the_longer_side_is_the_image_size_and_boxes_are_tight(tmp_path_factory, size, which):
    root = tmp_path_factory.getbasetemp() / "sizes"
    if not root.exists():
        write_penn_fudan(root)
    image = sorted(all_of(open_instances(config(root))), key=lambda i: i.path)[which]
    pixels, target = decode_item(image, size)
    assert max(pixels.shape[1:]) == size
    assert abs(pixels.shape[1] / pixels.shape[2] - image.height / image.width) < 0.5 / (size / 2)
    assert target["masks"].shape == (len(target["labels"]), *pixels.shape[1:])
    assert len(target["labels"]) <= image.num_objects
    for box, mask in zip(target["boxes"].int().tolist(), target["masks"], strict=True):
        left, top, right, bottom = box
        assert right > left
        assert bottom > top
        assert mask[top:bottom, left:right].sum() == mask.sum()
        for edge in (mask[top], mask[bottom - 1], mask[:, left], mask[:, right - 1]):
            assert edge.any()


def test_mirroring_keeps_boxes_around_masks(folder):
    image = next(i for i in all_of(open_instances(config(folder))) if i.num_objects == 2)
    item = decode_item(image, 31)
    pixels, target = mirrored(item)
    width = pixels.shape[2]
    assert torch.equal(pixels, item[0].flip(2))
    for (left, top, right, bottom), mask in zip(
        target["boxes"].int().tolist(), target["masks"], strict=True
    ):
        assert mask[top:bottom, left:right].sum() == mask.sum()
    assert target["boxes"][0].tolist() == [width - 10, 4, width - 4, 11]
    back = mirrored((pixels, target))
    assert same([([back[0]], [back[1]])], [([item[0]], [item[1]])])


def test_images_without_objects_are_kept(folder):
    batches = load_instances(config(folder)).train.eval_batches(4)
    empty = [target for _, targets in batches for target in targets if not len(target["labels"])]
    assert empty
    assert empty[0]["boxes"].shape == (0, 4)
    assert empty[0]["masks"].shape[0] == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_from_memory_and_from_disk(folder, workers):
    before = torch.get_rng_state()
    memory = load_instances(config(folder)).train
    disk = load_instances(config(folder, memory_gib=0.0, workers=workers)).train
    assert isinstance(memory.items, list)
    assert not isinstance(disk.items, list)
    assert same(list(memory.train_batches(4, 5)), list(disk.train_batches(4, 5)))
    assert same(list(memory.eval_batches(4)), list(disk.eval_batches(4)))
    assert torch.equal(before, torch.get_rng_state())  # a network's dropout is not disturbed


def test_training_batches_are_full_and_repeat_for_the_same_seed(folder):
    split = load_instances(config(folder)).train
    first, again, other = (list(split.train_batches(4, seed)) for seed in (1, 1, 2))
    assert [len(images) for images, _ in first] == [4, 4]
    assert same(first, again)
    assert not same(first, other)


def test_some_images_are_mirrored_and_only_if_wanted(folder):
    def as_they_are(split) -> int:
        seen = [image.numpy().tobytes() for images, _ in split.eval_batches(9) for image in images]
        read = [i.numpy().tobytes() for images, _ in split.train_batches(9, 0) for i in images]
        return sum(each in seen for each in read)

    assert 0 < as_they_are(load_instances(config(folder)).train) < 9
    assert as_they_are(load_instances(config(folder, augment=False)).train) == 9


def test_shares_of_workers_make_up_the_whole(folder):
    split = load_instances(config(folder)).train
    for read in (lambda s: split.train_batches(4, 3, s), lambda s: split.eval_batches(4, s)):
        whole, even, odd = (list(read(share)) for share in (Share(), Share(0, 2), Share(1, 2)))
        for (images, _), (first, _), (second, _) in zip(whole, even, odd, strict=True):
            assert all(map(torch.equal, images[::2], first))
            assert all(map(torch.equal, images[1::2], second))


def test_the_memory_limit_counts_masks(folder):
    images = open_instances(config(folder)).train
    size = load_instance_split(images, config(folder)).num_bytes
    for limit, in_memory in ((size + 1, True), (size - 1, False)):
        split = load_instance_split(images, config(folder, memory_gib=limit / 2**30))
        assert isinstance(split.items, list) == in_memory
    assert load_instance_split(images, config(folder)).to(torch.device("cpu")).num_bytes == size


def test_the_fingerprint_follows_files_and_splits(folder):
    before = open_instances(config(folder)).fingerprint()
    assert open_instances(config(folder)).fingerprint() == before
    assert open_instances(config(folder, split_seed=1)).fingerprint() != before
    assert open_instances(config(folder, image_size=30)).fingerprint() != before
    save(folder / "PedMasks" / "P000_mask.png", np.eye(20, 31) * 3)
    assert open_instances(config(folder)).fingerprint() != before


def spoil_missing_mask(folder):
    (folder / "PedMasks" / "P004_mask.png").unlink()
    return "P004.png has no mask .*P004_mask.png"


def spoil_missing_image(folder):
    (folder / "PNGImages" / "P004.png").unlink()
    return "P004_mask.png has no image"


def spoil_size(folder):
    save(folder / "PedMasks" / "P004_mask.png", np.zeros((20, 30)))
    return "P004_mask.png is of 30x20 pixels, its image of 31x20"


def spoil_colours(folder):
    save(folder / "PedMasks" / "P004_mask.png", np.zeros((20, 31, 3)))
    return "P004_mask.png is in colours"


def spoil_numbers(folder):
    mask = Image.fromarray(np.full((20, 31), -1, np.int32))
    mask.save(folder / "PedMasks" / "P004_mask.png", format="TIFF")
    return "P004_mask.png holds fractions or numbers below 0"


def spoil_file(folder):
    (folder / "PedMasks" / "P004_mask.png").write_bytes(b"no image")
    return "cannot decode image .*P004_mask.png"


def spoil_all_masks(folder):
    for path in (folder / "PedMasks").iterdir():
        save(path, np.zeros(np.array(Image.open(path)).shape))
    return "none of the 9 train images .* has an annotated object"


def spoil_folder(folder):
    (folder / "PedMasks").rename(folder / "Masks")
    return "PedMasks does not exist"


def spoil_all_images(folder):
    for path in (folder / "PNGImages").iterdir():
        path.unlink()
    return "PNGImages holds no images"


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_missing_mask,
        spoil_missing_image,
        spoil_size,
        spoil_colours,
        spoil_file,
        spoil_all_masks,
        spoil_folder,
        spoil_all_images,
    ],
)
def test_files_that_do_not_belong_together_are_named(folder, spoil):
    message = spoil(folder)
    with pytest.raises(DataError, match=message) as caught:
        open_instances(config(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("memory_gib", [1.0, 0.0])
def test_an_undecodable_image_is_named(folder, memory_gib):
    broken = open_instances(config(folder)).validation[0].path
    broken.write_bytes(broken.read_bytes()[:200])  # the header is whole
    settings = config(folder, memory_gib=memory_gib)
    with pytest.raises(DataError, match=broken.name) as caught:
        list(load_instances(settings).validation.eval_batches(4))
    assert "\n" not in str(caught.value)


def test_another_tasks_data_are_refused(folder):
    with pytest.raises(DataError, match="'paired', which is not for instance_segmentation"):
        open_instances(config(folder, name="paired"))


def test_boxes_are_those_of_the_published_annotations(tmp_path):
    root = unpack("pennfudanped.tar", tmp_path)
    sources = open_instances(config(root, validation=0.1))
    assert [len(s) for s in (sources.train, sources.validation, sources.test)] == [108, 12, 50]
    matched = 0
    for image in sources.test[:12]:
        _, target = decode_item(image, max(image.width, image.height))
        text = (root / "Annotation" / f"{image.path.stem}.txt").read_text(errors="replace")
        pattern = r"\(Xmax, Ymax\) : \((\d+), (\d+)\) - \((\d+), (\d+)\)"
        # Counted from 1, the last pixel included.
        published = [[int(v) - (i < 2) for i, v in enumerate(m)] for m in re.findall(pattern, text)]
        assert len(published) == image.num_objects
        differences = target["boxes"] - torch.tensor(published)
        assert differences.abs().max() <= 1
        matched += int((differences == 0).all(dim=1).sum())
    assert matched >= 0.95 * sum(image.num_objects for image in sources.test[:12])


def test_large_numbers_of_objects_are_objects_as_others(folder):
    numbers = np.zeros((20, 31), np.int32)
    numbers[2:5, 3:9], numbers[10:12, 3:9] = 2_000_000_000, 7
    Image.fromarray(numbers).save(folder / "PedMasks" / "P004_mask.png", format="TIFF")
    sources = open_instances(config(folder))
    images = (*sources.train, *sources.validation, *sources.test)
    (image,) = (image for image in images if image.path.stem == "P004")
    _, masks = image.objects()
    assert sorted(masks.sum(dim=(1, 2)).tolist()) == [2 * 6, 3 * 6]
