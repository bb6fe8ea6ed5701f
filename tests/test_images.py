"""Folders, lists, archives, embedded and torchvision sets become one kind of image set; hostile ones become errors."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lwcl.data.dataset import ImageSet, open_images, replacement_positions, split_holdout
from lwcl.data.native import UnreadableImageError
from lwcl.data.sources.files import ImageFolder, read_image_bytes
from lwcl.data.sources.packed import PackedNames
from lwcl.data.sources.splits import parse_folder_layout
from lwcl.errors import DataError, UsageError

REAL = Path(__file__).parents[2] / "shared" / "data"
SPLIT_NAMES = [
    f"root/{split}/{name}/{i}.png" for split in ("train", "val") for name in ("cat", "dog") for i in range(2)
]


def png(value: int = 0, side: int = 4) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (value % 256, 50, 100)).save(file, "PNG")
    return file.getvalue()


def make_folder(root: Path, names: Iterable[str]) -> str:
    for value, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(value))
    return str(root)


def make_zip(path: Path, names: Iterable[str], method: int = zipfile.ZIP_DEFLATED) -> str:
    with zipfile.ZipFile(path, "w", method) as archive:
        for value, name in enumerate(names):
            archive.writestr(name, png(value))
    return str(path)


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = len(data), kind, link
    archive.addfile(member, io.BytesIO(data))


def make_tar(path: Path, names: Iterable[str]) -> str:
    with tarfile.open(path, "w") as archive:
        for value, name in enumerate(names):
            add(archive, name, png(value))
    return str(path)


def reds(images: ImageSet) -> list[int]:
    return [int(np.asarray(images.image(index))[0, 0, 0]) for index in range(len(images))]


MAKERS = {
    "folder": lambda path, names: make_folder(path, names),
    "zip": lambda path, names: make_zip(path, names),
    "stored zip": lambda path, names: make_zip(path, names, zipfile.ZIP_STORED),
    "tar": lambda path, names: make_tar(path, names),
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LWCL_CACHE", str(folder))
    return folder


@pytest.mark.parametrize("kind", MAKERS)
def test_every_source_gives_the_same_images_labels_and_splits(tmp_path: Path, kind: str) -> None:
    spec = MAKERS[kind](tmp_path / "data", SPLIT_NAMES)
    train, val, every = (open_images([spec], split) for split in ("train", "val", "all"))
    assert every.names == sorted(SPLIT_NAMES)
    assert (reds(train), reds(val), reds(every)) == ([0, 1, 2, 3], [4, 5, 6, 7], list(range(8)))
    assert train.classes == val.classes == ("cat", "dog")
    assert train.labels.tolist() == val.labels.tolist() == [0, 0, 1, 1]
    assert train.labels.dtype == torch.int64
    assert train.has_splits
    assert train.labelled
    assert len({train.fingerprint, val.fingerprint, every.fingerprint}) == 3
    assert reds(pickle.loads(pickle.dumps(val))) == reds(val)  # noqa: S301


@pytest.mark.parametrize(
    ("names", "splits", "classes"),
    [
        (["a/x.png", "b/y.png"], ["", ""], ["a", "b"]),
        (["x.png", "y.png"], ["", ""], ["", ""]),
        (["a/x.png", "a/y.png"], ["", ""], ["", ""]),
        (["deep/down/a/1/x.png", "deep/down/b/2/y.png", "deep/down/z.png"], [""] * 3, ["a", "b", ""]),
        (["cifar/test/a/x.png", "cifar/test/b/x.png"], ["test"] * 2, ["a", "b"]),
        (["s/Train/a/x.png", "s/VALID/b/x.png"], ["train", "val"], ["a", "b"]),
        (["s/train/x.png", "s/test/x.png"], ["train", "test"], ["", ""]),
        (
            ["i/train/x/1.png", "i/val/y/1.png", "i/extra/1.png", "z.png"],
            ["train", "val", "other", "other"],
            ["x", "y", "", ""],
        ),
        (["train/x.png", "photos/x.png"], ["", ""], ["train", "photos"]),
        (
            ["d/train/Caf\u00e9/x.png", "d/val/Cafe\u0301/x.png", "d/val/b/x.png"],
            ["train", "val", "val"],
            ["Café", "Café", "b"],
        ),
        (["d/train/a/x.png", "d/dev/b/x.png"], ["train", "val"], ["a", "b"]),
        (["seg_train/a/x.png", "seg_test/b/x.png", "seg_pred/x.png"], ["train", "test", "other"], ["a", "b", ""]),
        (["train2017/x.png", "val2017/x.png"], ["train", "val"], ["", ""]),
        (
            ["train/a/x.png", "test/b/x.png", "old-train/x.png", "old-test/x.png"],
            ["train", "test", "other", "other"],
            ["a", "b", "", ""],
        ),
        (
            ["train_station/x.png", "test_tube/x.png", "training_shoe/x.png"],
            ["", "", ""],
            ["train_station", "test_tube", "training_shoe"],
        ),
    ],
)
def test_folders_say_splits_and_classes(names: list[str], splits: list[str], classes: list[str]) -> None:
    assert parse_folder_layout(PackedNames.of(names)) == (splits, classes)


def test_val_is_preferred_to_test_and_what_is_beside_the_splits_is_in_all_only(tmp_path: Path) -> None:
    spec = make_folder(tmp_path, ["extra/e.png", "test/t.png", "train/r.png", "val/v.png"])
    chosen = {split: open_images([spec], split).names for split in ("train", "val", "all")}
    assert chosen["train"] == ["train/r.png"]
    assert chosen["val"] == ["val/v.png"]
    assert len(chosen["all"]) == 4
    assert open_images([make_folder(tmp_path / "two", ["train/r.png", "test/t.png"])], "val").names == ["test/t.png"]


def test_a_set_of_one_split_is_the_whole_for_every_split(tmp_path: Path) -> None:
    spec = make_zip(tmp_path / "a.zip", ["set/train/a/1.png", "set/train/b/1.png"])
    for split in ("train", "val", "all"):
        images = open_images([spec], split)
        assert (len(images), images.has_splits, images.classes) == (2, False, ("a", "b"))


def test_several_sources_are_one_set_with_united_classes(tmp_path: Path) -> None:
    first = make_zip(tmp_path / "one.zip", ["train/cat/1.png", "train/dog/1.png"])
    second = make_tar(tmp_path / "two.tar", ["test/dog/1.png", "test/emu/1.png"])
    both = open_images([first, second])
    assert both.names == [
        "one.zip/train/cat/1.png",
        "one.zip/train/dog/1.png",
        "two.tar/test/dog/1.png",
        "two.tar/test/emu/1.png",
    ]
    assert both.classes == ("cat", "dog", "emu")
    assert both.labels.tolist() == [0, 1, 1, 2]
    assert open_images([first, second], "val").labels.tolist() == [1, 2]
    assert open_images([first, second], "train").labels.tolist() == [0, 1]
    assert reds(both) == [0, 1, 0, 1]


def test_the_fingerprint_tells_content_and_not_place(tmp_path: Path) -> None:
    one = make_zip(tmp_path / "a.zip", ["x/1.png", "y/2.png"])
    moved = tmp_path / "elsewhere.zip"
    moved.write_bytes(Path(one).read_bytes())
    assert open_images([one]).fingerprint == open_images([str(moved)]).fingerprint
    other = make_zip(tmp_path / "b.zip", ["y/2.png", "x/1.png"])
    assert open_images([one]).fingerprint != open_images([other]).fingerprint
    folder = make_folder(tmp_path / "f", ["1.png"])
    before = open_images([folder]).fingerprint
    os.utime(tmp_path / "f" / "1.png", ns=(1, 1))
    assert open_images([folder]).fingerprint != before


def test_an_archive_index_is_kept_and_thrown_away_when_the_archive_changes(tmp_path: Path, cache: Path) -> None:
    spec = make_zip(tmp_path / "a.zip", ["1.png"])
    assert open_images([spec]).names == ["1.png"]
    (kept,) = (cache / "index").iterdir()
    before = kept.read_bytes()
    assert open_images([spec]).names == ["1.png"]
    kept.write_bytes(before[:50])
    assert open_images([spec]).names == ["1.png"]
    assert kept.read_bytes() == before
    make_zip(tmp_path / "a.zip", ["1.png", "2.png"])
    assert open_images([spec]).names == ["1.png", "2.png"]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LWCL_CACHE", str(tmp_path / "file"))
    assert len(open_images([make_tar(tmp_path / "a.tar", ["1.png"])])) == 1


def test_an_archive_that_changes_in_use_is_an_error_and_not_a_bad_image(tmp_path: Path) -> None:
    images = open_images([make_zip(tmp_path / "a.zip", ["1.png", "2.png"])])
    make_zip(tmp_path / "a.zip", ["0.png", "1.png", "2.png"])
    with pytest.raises(DataError, match="changed while") as caught:
        images.image(0)
    assert not isinstance(caught.value, UnreadableImageError)


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/etc/x.png", "..\\x.png"])
def test_archives_with_members_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    for spec in (make_zip(tmp_path / "a.zip", ["ok.png", name]), make_tar(tmp_path / "a.tar", ["ok.png", name])):
        with pytest.raises(DataError, match="outside"):
            open_images([spec])


def test_links_and_devices_in_a_tar_are_passed_over_and_the_later_of_two_counts(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "./a/ok.png", png(1))
        add(archive, "a/soft.png", kind=tarfile.SYMTYPE, link="/etc/passwd")
        add(archive, "a/hard.png", kind=tarfile.LNKTYPE, link="a/soft.png")
        add(archive, "a/device.png", kind=tarfile.CHRTYPE)
        add(archive, "a/fifo.png", kind=tarfile.FIFOTYPE)
        add(archive, "a/ok.png", png(2))
        add(archive, "__MACOSX/a/._ok.png", b"x")
    images = open_images([str(tmp_path / "a.tar")])
    assert images.names == ["a/ok.png"]
    assert reds(images) == [2]


def test_a_member_that_declares_gigabytes_is_a_bad_image_at_once(tmp_path: Path) -> None:
    path = Path(make_zip(tmp_path / "a.zip", ["1.png", "2.png"]))
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\1\2")
    data[entry + 24 : entry + 28] = struct.pack("<I", 2_000_000_000)
    path.write_bytes(data)
    images = open_images([str(path)])
    with pytest.raises(UnreadableImageError, match="more than the limit"):
        images.image(0)
    assert images.image(1).size == (4, 4)


def test_a_member_that_unpacks_to_more_than_it_declares_is_a_bad_image(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(10_000_000))
    data = bytearray((tmp_path / "a.zip").read_bytes())
    entry = data.index(b"PK\1\2")
    data[entry + 24 : entry + 28] = struct.pack("<I", 1000)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(UnreadableImageError, match="checksum"):
        open_images([str(tmp_path / "a.zip")]).image(0)


def test_a_flipped_bit_in_a_zip_is_found_by_its_checksum(tmp_path: Path) -> None:
    path = Path(make_zip(tmp_path / "a.zip", ["1.png"], zipfile.ZIP_STORED))
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(UnreadableImageError, match="checksum"):
        open_images([str(path)]).image(0)


def test_other_zip_methods_are_bad_images(tmp_path: Path) -> None:
    spec = make_zip(tmp_path / "a.zip", ["1.png"], zipfile.ZIP_LZMA)
    with pytest.raises(UnreadableImageError, match="method 14"):
        open_images([spec]).image(0)


def test_what_is_no_archive_or_compressed_or_cut_off_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "no.zip").write_bytes(b"hello")
    (tmp_path / "no.tar").write_bytes(b"hello" * 200)
    tar = Path(make_tar(tmp_path / "whole.tar", ["1.png", "2.png"])).read_bytes()
    (tmp_path / "cut.tar").write_bytes(tar[:1600])
    (tmp_path / "cut.zip").write_bytes(Path(make_zip(tmp_path / "whole.zip", ["1.png"])).read_bytes()[:-30])
    for name in ("no.zip", "no.tar", "cut.tar", "cut.zip"):
        with pytest.raises(DataError, match="archive"):
            open_images([str(tmp_path / name)])
    for name in ("a.tar.gz", "a.tgz"):
        (tmp_path / name).write_bytes(gzip.compress(tar))
        with pytest.raises(DataError, match=r"compressed with gzip[\s\S]*\.tar"):
            open_images([str(tmp_path / name)])


def test_links_that_lead_outside_are_not_followed_and_those_inside_are(tmp_path: Path) -> None:
    make_folder(tmp_path / "out", ["secret.png", "sub/secret.png"])
    root = tmp_path / "in"
    make_folder(root, ["a/1.png"])
    (root / "away.png").symlink_to(tmp_path / "out" / "secret.png")
    (root / "away").symlink_to(tmp_path / "out")
    (root / "gone.png").symlink_to("nowhere.png")
    (root / "b").symlink_to("a")
    (root / "c.png").symlink_to("a/1.png")
    (root / "a" / "loop").symlink_to("..")
    (root / "self").symlink_to(".")
    assert open_images([str(root)]).names == ["a/1.png", "b/1.png", "c.png"]
    (tmp_path / "farm").mkdir()
    (tmp_path / "farm" / "x.png").symlink_to(root / "c.png")
    (tmp_path / "farm" / "gone.png").symlink_to("nowhere.png")
    assert open_images([str(tmp_path / "farm")]).names == ["x.png"], (
        "where there is nothing but links they are followed"
    )


def test_hidden_foreign_and_odd_files_are_ignored(tmp_path: Path) -> None:
    make_folder(
        tmp_path, ["1.PNG", ".hidden.png", ".git/2.png", "__MACOSX/3.png", "notes.txt", "Thumbs.db", "x.png/4.jpeg"]
    )
    os.mkfifo(tmp_path / "pipe.png")
    assert open_images([str(tmp_path)]).names == ["1.PNG", "x.png/4.jpeg"]


ODD_NAMES = [
    "new\nline.png",
    "\x1b[31mred.png",
    "[red]x[/red].png",
    "<script>.png",
    "\u202egnp.x.png",
    "n" * 251 + ".png",
    os.fsdecode(b"bad\xff\xfe.png"),
]


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_names_of_any_bytes_work(tmp_path: Path, kind: str) -> None:
    spec = MAKERS[kind](tmp_path / "data", ODD_NAMES)
    for _ in range(2):  # the second time, the tar's index comes from the cache
        images = open_images([spec])
        assert images.names == sorted(ODD_NAMES)
        assert [ODD_NAMES[red] for red in reds(images)] == images.names


def test_a_list_names_paths_relative_to_itself(tmp_path: Path) -> None:
    make_folder(tmp_path / "lists" / "a", ["1.png"])
    make_folder(tmp_path / "b", ["2.png", "3"])
    text = f"# comment\r\n\na/1.png\n../b/2.png\n a/missing.png \n{tmp_path / 'b' / '3'}\na/../a/1.png\n"
    (tmp_path / "lists" / "l.txt").write_text(text)
    images = open_images([str(tmp_path / "lists" / "l.txt")])
    assert images.names == ["../b/2.png", str(tmp_path / "b" / "3"), "a/1.png", "a/missing.png"]
    with pytest.raises(UnreadableImageError, match="no such file"):
        images.image(3)
    (tmp_path / "lists" / "none.txt").write_text("x.png\ny.png\n")
    with pytest.raises(DataError, match="None of the 2 files"):
        open_images([str(tmp_path / "lists" / "none.txt")])
    (tmp_path / "lists" / "empty.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match="No images"):
        open_images([str(tmp_path / "lists" / "empty.txt")])


def test_data_that_is_not_there_suggests_its_neighbours(tmp_path: Path) -> None:
    make_folder(tmp_path / "photos", ["1.png"])
    with pytest.raises(UsageError, match=r"Did you mean '.*photos'\?"):
        open_images([str(tmp_path / "photo")])
    with pytest.raises(UsageError, match="does not exist either"):
        open_images([str(tmp_path / "no" / "where")])
    with pytest.raises(UsageError, match="single image"):
        open_images([str(tmp_path / "photos" / "1.png")])
    (tmp_path / "x.doc").touch()
    with pytest.raises(UsageError, match="folder"):
        open_images([str(tmp_path / "x.doc")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"No images in .*\n.*0 other files"):
        open_images([str(tmp_path / "empty")])


def test_a_file_that_vanishes_is_a_bad_image_and_a_neighbour_stands_in(tmp_path: Path) -> None:
    images = open_images([make_folder(tmp_path, ["a.png", "b.png", "c.png"])])
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "c.png").unlink()
    image, broken = images.readable_image(1)
    assert image.getpixel((0, 0)) == (0, 50, 100)
    assert broken == [("b.png", "the file is empty"), ("c.png", "not readable: No such file or directory")]
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match="None of the images"):
        images.readable_image(2)
    assert list(replacement_positions(2, 4)) == [2, 3, 0, 1]


def test_an_image_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "huge.bmp", "wb") as file:
        file.truncate(2**30)
    with pytest.raises(UnreadableImageError, match="more than the limit"):
        read_image_bytes(tmp_path / "huge.bmp")


def test_reading_a_folder_changes_nothing_in_it(tmp_path: Path) -> None:
    root = Path(make_folder(tmp_path / "d", SPLIT_NAMES))
    before = [(path, path.stat().st_mtime_ns) for path in sorted(root.rglob("*"))]
    reds(open_images([str(root)]))
    assert [(path, path.stat().st_mtime_ns) for path in sorted(root.rglob("*"))] == before
    assert ImageFolder(root).listing().names == SPLIT_NAMES


def test_a_holdout_is_stratified_and_depends_on_seed_and_names_only() -> None:
    images = open_images(["digits"])
    train, val = split_holdout(images, 0.2, seed=1)
    assert sorted([*train.names, *val.names]) == sorted(images.names)
    shares = torch.bincount(val.labels) / torch.bincount(images.labels)
    assert ((shares - 0.2).abs() < 0.01).all()
    assert split_holdout(images, 0.2, seed=1)[1].names == val.names
    assert split_holdout(images, 0.2, seed=2)[1].names != val.names
    backwards = images.subset(range(len(images) - 1, -1, -1))
    assert set(split_holdout(backwards, 0.2, seed=1)[1].names) == set(val.names)
    with pytest.raises(UsageError, match="between 0 and 1"):
        split_holdout(images, 1.0, seed=0)


def test_a_subset_keeps_names_labels_and_images_together() -> None:
    images = open_images([], "val")
    few = images.subset(torch.tensor([5, 2]))
    assert few.names == [images.names[5], images.names[2]]
    assert few.labels.tolist() == images.labels[[5, 2]].tolist()
    assert few.image(0) == images.image(5)
    assert few.fingerprint not in (images.fingerprint, images.subset([2, 5]).fingerprint)


def test_the_digits_are_embedded_with_fixed_splits() -> None:
    train, val = open_images(["digits"], "train"), open_images(["digits"], "val")
    assert (len(train), len(val)) == (1297, 500)
    assert train.classes == tuple("0123456789")
    assert not set(train.names) & set(val.names)
    image = np.asarray(train.image(0))
    assert image.shape == (8, 8, 3)
    assert max(np.asarray(train.image(index)).max() for index in range(20)) == 255


def write_mnist(root: Path) -> None:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, count in (("train", 4), ("t10k", 2)):
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + bytes(count * 784))
        labels = bytes(range(count))
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels)


def test_a_torchvision_set_in_memory_is_read_by_name(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    train, val = (open_images([f"tv/mnist:{tmp_path}"], split) for split in ("train", "val"))
    assert (len(train), len(val), train.has_splits) == (4, 2, True)
    assert train.labels.tolist() == [0, 1, 2, 3]
    assert train.classes[0] == "0 - zero"
    assert train.image(0).size == (28, 28)


def test_a_torchvision_set_of_files_is_decoded_by_us(tmp_path: Path) -> None:
    make_folder(tmp_path / "eurosat" / "2750", ["Forest/1.jpg", "River/2.jpg"])
    (tmp_path / "eurosat" / "2750" / "River" / "2.jpg").write_bytes(b"")
    images = open_images([f"tv/EuroSAT:{tmp_path}"])
    assert images.names == ["eurosat/2750/Forest/1.jpg", "eurosat/2750/River/2.jpg"]
    assert (images.classes, images.has_splits) == (("Forest", "River"), False)
    with pytest.raises(UnreadableImageError, match="empty"):
        images.image(1)
    make_folder(tmp_path / "imagenette2", ["train/n01440764/1.JPEG", "val/n01440764/2.JPEG"])
    nette = open_images([f"tv/imagenette:{tmp_path}"], "train")
    assert (nette.names, nette.classes) == (["imagenette2/train/n01440764/1.JPEG"], ("tench",))


def test_a_torchvision_set_that_is_missing_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--download"):
        open_images([f"tv/cifar10:{tmp_path}"])
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="cifar100"):
        open_images([f"tv/cifra100:{tmp_path}"])
    with pytest.raises(UsageError, match="FOLDER"):
        open_images(["tv/cifar10"])


@pytest.mark.skipif(not (REAL / "cifar10-test.zip").exists(), reason="real images are not here")
def test_real_archives_are_read_in_place() -> None:
    cifar = open_images([str(REAL / "cifar10-test.zip")])
    assert (len(cifar), len(cifar.classes), cifar.has_splits) == (10_000, 10, False)
    assert torch.bincount(cifar.labels).tolist() == [1000] * 10
    assert cifar.image(1234).size == (32, 32)
    nette = open_images([str(REAL / "imagenette224-5k.zip")], "val")
    assert (len(nette), len(nette.classes), nette.has_splits) == (1000, 10, True)
    assert nette.image(0).size == (224, 224)
