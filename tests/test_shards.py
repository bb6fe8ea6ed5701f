"""Tar shards as one data set, in WebDataset's layout, and the packed index that holds millions of images."""

import gzip
import io
import json
import multiprocessing
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_images import add, make_folder, make_tar, make_zip, png, reds

from lwcl.data.dataset import open_images
from lwcl.data.sources import tar
from lwcl.data.sources.archives import UnusualArchiveError, list_archive
from lwcl.data.sources.packed import Coded, PackedNames, PackedTable
from lwcl.data.sources.shards import expand_pattern
from lwcl.errors import DataError, UsageError


def make_shard(path: Path, samples: dict[str, bytes], **how: Any) -> None:
    """A tar with these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **how) as archive:
        for name, data in samples.items():
            add(archive, name, data)


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Three shards of two samples, numbered through, their red the number, labels even and odd."""
    for shard in range(3):
        samples = {}
        for number in (2 * shard, 2 * shard + 1):
            samples |= {
                f"{number:06d}.png": png(number),
                f"{number:06d}.cls": f"{('even', 'odd')[number % 2]}\n".encode(),
            }
        make_shard(tmp_path / "shards" / f"train-{shard:04d}.tar", samples)
    return f"{tmp_path}/shards/train-{{0000..0002}}.tar"


def test_shards_are_one_data_set_with_the_labels_beside_the_images(shards: str) -> None:
    images = open_images([shards])
    assert images.names[0] == "train-0000/000000.png"
    assert images.names[-1] == "train-0002/000005.png"
    assert reds(images) == [0, 1, 2, 3, 4, 5]
    assert images.classes == ("even", "odd")
    assert images.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert any("labels are those of .cls or .json files" in note and "2 classes" in note for note in images.notes)


def test_wildcards_name_the_same_shards_as_braces(shards: str) -> None:
    braces, wildcards = open_images([shards]), open_images([shards.replace("{0000..0002}", "*")])
    assert braces.fingerprint == wildcards.fingerprint
    assert braces.identity == wildcards.identity


def test_braces_are_expanded_as_a_shell_does(tmp_path: Path) -> None:
    for name in ("a08.x", "a09.x", "a10.x", "b08.x", "b09.x", "b10.x", "a9.x"):
        (tmp_path / name).touch()
    named = [path.name for path in expand_pattern(f"{tmp_path}/{{b,a}}{{08..10}}.x")]
    assert named == ["b08.x", "b09.x", "b10.x", "a08.x", "a09.x", "a10.x"]
    assert [path.name for path in expand_pattern(f"{tmp_path}/a{{10..09}}.x")] == ["a10.x", "a09.x"]
    assert [path.name for path in expand_pattern(f"{tmp_path}/{{a,b}}*8.x")] == ["a08.x", "b08.x"]


def test_a_missing_shard_is_named_before_anything_is_read(shards: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"2 of 5 files missing: .*train-0003\.tar"):
        open_images([shards.replace("0002", "0004")])
    with pytest.raises(UsageError, match="No file matches"):
        open_images([f"{tmp_path}/shards/val-*.tar"])
    with pytest.raises(UsageError, match="more than 100,000 files"):
        open_images([f"{tmp_path}/{{0..999999}}.tar"])


def test_a_folder_with_braces_in_its_name_is_that_folder(tmp_path: Path) -> None:
    assert len(open_images([make_folder(tmp_path / "set{1,2}", ["1.png"])])) == 1


def test_patterns_are_for_tar_archives_only(tmp_path: Path) -> None:
    make_zip(tmp_path / "a.zip", ["1.png"])
    with pytest.raises(UsageError, match=r"a\.zip' is no tar"):
        open_images([f"{tmp_path}/*.zip"])


def test_compressed_shards_are_refused_with_the_command_that_helps(shards: str, tmp_path: Path) -> None:
    path = tmp_path / "shards" / "train-0001.tar"
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"compressed with gzip[\s\S]*gunzip .*train-0001\.tar"):
        open_images([shards])


def test_the_words_of_shard_names_tell_the_splits(tmp_path: Path) -> None:
    for number, name in enumerate(("inet-train-000", "inet-train-001", "inet-val-000")):
        make_shard(tmp_path / f"{name}.tar", {f"{number}.png": png(number)})
    assert reds(open_images([f"{tmp_path}/*.tar"], "train")) == [0, 1]
    assert reds(open_images([f"{tmp_path}/*.tar"], "val")) == [2]
    assert reds(open_images([f"{tmp_path}/*val*.tar"], "train")) == [2], "without splits, each split is the whole set"


def test_class_folders_within_shards_are_the_classes(tmp_path: Path) -> None:
    for shard in range(2):
        make_shard(tmp_path / f"{shard}.tar", {f"cat/{shard}.png": png(shard), f"dog/{shard}.png": png(9)})
    images = open_images([f"{tmp_path}/{{0,1}}.tar"])
    assert images.classes == ("cat", "dog")
    assert images.labels.tolist() == [0, 1, 0, 1]


def test_a_field_of_json_labels_an_image_unless_a_cls_file_does(tmp_path: Path) -> None:
    samples = {
        "a.png": png(1), "a.json": json.dumps({"label": 7}).encode(),
        "b.b.png": png(2), "b.cls": b"3", "b.json": b'{"label": 8}',
        "c.png": png(3), "c.json": b"not json",
        "d.png": png(4), "d.json": json.dumps({"caption": "x", "class_name": "owl"}).encode(),
    }  # fmt: skip
    make_shard(tmp_path / "a.tar", samples)
    images = open_images([str(tmp_path / "a.tar")])
    assert images.classes == ("3", "7", "owl")
    assert [images.classes[label] if label >= 0 else "" for label in images.labels] == ["7", "3", "", "owl"]
    assert any("1 of 4 images has none" in note or "1 of 4 images have none" in note for note in images.notes)


def test_a_shard_that_changes_in_use_is_an_error_that_names_it(shards: str, tmp_path: Path) -> None:
    images = open_images([shards])
    make_tar(tmp_path / "shards" / "train-0001.tar", ["1.png"])
    assert images.image(0).size == (4, 4)
    with pytest.raises(DataError, match=r"train-0001\.tar' changed while"):
        images.image(2)


def test_shards_of_the_same_name_in_two_folders_stay_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        make_shard(tmp_path / folder / "0.tar", {"x.png": png(ord(folder))})
    images = open_images([f"{tmp_path}/{{a,b}}/0.tar"])
    assert images.names == ["a.0/x.png", "b.0/x.png"]
    assert reds(images) == [ord("a"), ord("b")]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_headers_are_read_as_tarfile_reads_them(tmp_path: Path, form: int) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
        for name in ("plain.png", "deep/" * 15 + "below/and a name to fill the header.png", "ü/é.png", "folder"):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = (0, 5) if name == "folder" else (3, 12.75 if form == tarfile.PAX_FORMAT else 12)
            member.type = tarfile.DIRTYPE if name == "folder" else tarfile.REGTYPE
            archive.addfile(member, io.BytesIO(b"abc"))
    fast, slow = (list(read(tmp_path / "a.tar")) for read in (tar.plain_tar_members, tar.tar_members))
    assert fast == slow
    assert len(fast) == 3


def test_what_is_no_plain_tar_is_left_to_tarfile(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "links.tar", "w") as archive:
        add(archive, "a.png", png(1))
        add(archive, "b.png", kind=tarfile.SYMTYPE, link="a.png")
    whole = Path(make_tar(tmp_path / "whole.tar", ["1.png", "2.png"])).read_bytes()
    flipped = bytearray(whole)
    flipped[1024] ^= 1  # the name of the second member: its checksum tells
    (tmp_path / "flipped.tar").write_bytes(flipped)
    (tmp_path / "cut.tar").write_bytes(whole[:1600])
    for name in ("links.tar", "flipped.tar", "cut.tar"):
        with pytest.raises(UnusualArchiveError):
            list_archive(tmp_path / name, tar.plain_tar_members(tmp_path / name))
    with pytest.raises(DataError, match="damaged: 1 member could be read"):
        open_images([str(tmp_path / "flipped.tar")])


def test_packed_names_are_the_names() -> None:
    names = ["a/1.png", "a/2.png", "b/c/3.png", "4.png", "a/\udce9.png", "b/c/3.png"]
    packed = PackedNames.of(names)
    assert packed == names
    assert b"".join(packed.text_pieces()) == "".join(f"{name}\0" for name in names).encode("utf-8", "surrogateescape")
    chosen = packed.select(np.array([4, 0, 1]))
    assert chosen == [names[4], names[0], names[1]]
    assert b"".join(chosen.text_pieces()) == b"a/\xe9.png\0a/1.png\0a/2.png\0"
    both = PackedNames.joined([packed.below("x/"), PackedNames.of(["y"])])
    assert both == [*(f"x/{name}" for name in names), "y"]
    assert packed[1:3] == names[1:3]
    assert packed.index("4.png") == 3
    kinds = PackedNames.of(["a.png", "png", "b.PNG", "c.tif", "d/e.pNg", "f.png.jpg", ".png"])
    assert kinds.ending_in((".png", ".tif")).tolist() == [0, 2, 3, 4, 6]


def test_packed_strings_and_rows_are_what_was_packed() -> None:
    strings = ["x", "", "x", "y"]
    packed = Coded.of(strings)
    assert packed == strings
    assert (packed.present, packed.count("x"), packed[1:]) == ({"x", "", "y"}, 2, ["", "x", "y"])
    assert Coded.joined([packed, Coded.constant("z", 2)]) == [*strings, "z", "z"]
    table = PackedTable.of([(1, -1, 2**40), (2, -1, 5)], 3)
    assert (table.row(0), table.row(1)) == ((1, -1, 2**40), (2, -1, 5))
    assert [column.nbytes for column in table.columns] == [2, 1, 16]
    assert PackedTable.joined([table, table])[np.array([3, 0])].tolist() == [[2, -1, 5], [1, -1, 2**40]]


def test_an_index_is_mapped_and_not_copied_and_a_flipped_bit_is_found(shards: str, own_cache: Path) -> None:
    first = open_images([shards])
    (kept,) = (own_cache / "index").iterdir()
    again = open_images([shards])
    names = again.names
    assert isinstance(names, PackedNames)
    assert not names.text.flags.owndata and not names.text.flags.writeable
    assert (again.names, again.fingerprint) == (first.names, first.fingerprint)
    data = kept.read_bytes()
    for place in range(0, len(data), 97):
        flipped = bytearray(data)
        flipped[place] ^= 4
        kept.write_bytes(flipped)
        assert open_images([shards]).fingerprint == first.fingerprint
        assert kept.read_bytes() == data


def open_and_count(shards: str, counts: Any) -> None:
    """What a process of several does."""
    counts.put(len(open_images([shards])))


def test_of_several_processes_one_builds_the_index(shards: str, own_cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    counts = context.Queue()
    processes = [context.Process(target=open_and_count, args=(shards, counts)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [counts.get(timeout=60) for _ in processes] == [6, 6, 6]
    for process in processes:
        process.join(60)
    assert len(list((own_cache / "index").iterdir())) == 1
