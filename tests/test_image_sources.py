"""Lists, links, archives and folder levels as users have them: all is read, or counted and named."""

import os
import stat
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
from test_images import add, make_folder, make_tar, make_zip, png

from lwcl.data.dataset import open_images
from lwcl.data.sources import lists
from lwcl.data.sources.lists import ListedFile, parse_list
from lwcl.errors import DataError, UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images without class folders."""
    make_folder(tmp_path, ["a b.png", "1.png", "2.png", "3.png"])
    return tmp_path


TABLES = {
    "list.csv": b"path,label\na b.png,cat\n1.png,dog\n2.png,cat\n3.png,dog\n",
    "plain.csv": b"a b.png,cat\n1.png,dog\n2.png,cat\n3.png,dog\n",
    "semi.csv": b"\xef\xbb\xbfid;image;species\n7;a b.png;cat\n8;1.png;dog\n9;2.png;cat\n10;3.png;dog\n",
    "quoted.csv": b'label,path\n"cat","a b.png"\n"dog","1.png"\n"cat","2.png"\n"dog","3.png"\n',
    "table.tsv": b"a b.png\tcat\n1.png\tdog\n2.png\tcat\n3.png\tdog\n",
    "blanks.txt": b"a b.png cat\n1.png dog\n2.png cat\n3.png dog\n",
    "comma.txt": b"# path,label\na b.png,cat\n1.png,dog\n2.png,cat\n3.png,dog\n",
    "wide.txt": "a b.png,cat\r\n1.png,dog\r\n2.png,cat\r\n3.png,dog\r\n".encode("utf-16"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_list_with_labels_is_read_whatever_its_form(folder: Path, name: str) -> None:
    (folder / name).write_bytes(TABLES[name])
    images = open_images([str(folder / name)])
    labels = {file: images.classes[label] for file, label in zip(images.names, images.labels, strict=True)}
    assert labels == {"a b.png": "cat", "1.png": "dog", "2.png": "cat", "3.png": "dog"}
    assert any("paths with labels: 2 classes" in note for note in images.notes)


def test_plain_paths_stay_plain_whatever_characters_are_in_them() -> None:
    names = ["a, b.png", "c;d.png", "e f.png", "g|h.png"]
    assert [row.path for row in parse_list("\n".join(names).encode())] == names
    assert parse_list(b"x.png\0y.png\0") == (ListedFile("x.png"), ListedFile("y.png"))
    assert parse_list(b"") == ()


@pytest.mark.parametrize(
    "table",
    [
        "id,breed\n0,cat\n1,dog\n",
        "image_id;label\n0.png;cat\n1.png;dog\n",
        "train\\cat\\0.png,cat\r\ntrain\\dog\\1.png,dog\r\n",
        "/home/other/photos/0.png cat\n/home/other/photos/1.png dog\n",
    ],
)
def test_names_that_are_no_paths_are_found_below_the_list(table: str, tmp_path: Path) -> None:
    make_folder(tmp_path, ["train/cat/0.png", "train/dog/1.png", "train/dog/2.png"])
    (tmp_path / "labels.csv").write_text(table)
    images = open_images([str(tmp_path / "labels.csv")])
    assert (images.names, images.classes) == (["train/cat/0.png", "train/dog/1.png"], ("cat", "dog"))
    assert "2 of 2 names" in images.notes[0] and "found below its folder" in images.notes[0]


def test_a_name_that_several_files_have_is_missing(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a/0.png", "b/0.png", "b/1.png"])
    (tmp_path / "labels.csv").write_text("id,label\n0,cat\n1,dog\n")
    images = open_images([str(tmp_path / "labels.csv")])
    assert images.names == ["0", "b/1.png"]
    assert any("1 of 2 files" in note and "missing" in note for note in images.notes)


def test_a_column_of_splits_is_obeyed(folder: Path) -> None:
    rows = "file,label,split\na b.png,cat,train\n1.png,dog,train\n2.png,cat,test\n3.png,dog,test\n"
    (folder / "l.csv").write_text(rows)
    assert open_images([str(folder / "l.csv")], "val").names == ["2.png", "3.png"]


def test_missing_files_are_counted_at_the_start(folder: Path) -> None:
    (folder / "l.csv").write_text("path,label\n1.png,a\n2.png,b\ngone.png,a\n")
    assert any(
        "1 of 3 files in" in note and "'gone.png'" in note for note in open_images([str(folder / "l.csv")]).notes
    )


def test_a_home_folder_in_a_list_expands(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "l.txt").write_text("~/1.png\n~/2.png\n")
    images = open_images([str(tmp_path / "other" / "l.txt")])
    assert images.names == [str(folder / "1.png"), str(folder / "2.png")]


def test_a_pipe_is_read_once_and_its_paths_are_relative_to_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    os.mkfifo(folder / "pipe")
    writer = threading.Thread(target=(folder / "pipe").write_text, args=("1.png\n2.png\n",))
    writer.start()
    first, second = (open_images([str(folder / "pipe")]) for _ in range(2))
    writer.join()
    assert first.names == second.names == ["1.png", "2.png"]
    assert first.image(0).size == (4, 4)


def test_a_dash_is_stdin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(lists, "read_pipe", lambda path: b"1.png,a\n2.png,b\n" if path == "-" else b"")
    images = open_images(["-"])
    assert (images.names, images.classes) == (["1.png", "2.png"], ("a", "b"))


LEVELS = [f"{top}/{middle}/{leaf}/{i}.png" for top in "AB" for middle in "CD" for leaf in "EF" for i in range(2)]


@pytest.mark.parametrize(("labels", "classes"), [("top", "AB"), ("leaf", "EF"), ("2", "CD"), ("3", "EF")])
def test_the_level_of_the_classes_can_be_chosen_and_several_levels_are_said(
    tmp_path: Path, labels: str, classes: str
) -> None:
    spec = make_folder(tmp_path, LEVELS)
    images = open_images([spec], labels=labels)
    assert images.classes == tuple(classes)
    assert bool(images.notes) == (labels == "top")
    if images.notes:
        assert "(2 classes); the last level has 2: --labels leaf" in images.notes[0]
    with pytest.raises(UsageError, match="--labels"):
        open_images([spec], labels="bottom")


def test_what_stands_beside_the_splits_is_named(tmp_path: Path) -> None:
    names = ["train/a/1.png", "train/b/1.png", "val/a/2.png", "val/b/2.png", "unlabeled/3.png", "unlabeled/4.png"]
    images = open_images([make_folder(tmp_path, names)], "train")
    assert len(images) == 2
    assert "train 2, val 2; ignored: 2 images outside the split folders (unlabeled)" in images.notes[0]


def links(tmp_path: Path, kept: bool) -> Path:
    """A folder of links to two class folders elsewhere, beside an image of its own if `kept`."""
    make_folder(tmp_path / "store", ["cat/1.png", "dog/2.png"])
    root = tmp_path / "links"
    make_folder(root, ["own/0.png"] if kept else [])
    root.mkdir(exist_ok=True)
    for name in ("cat", "dog"):
        (root / name).symlink_to(tmp_path / "store" / name)
    (root / "circle").symlink_to(root)
    (root / "above").symlink_to("..")
    (root / "everything").symlink_to("/")
    (tmp_path / "store" / "cat" / "back").symlink_to(root)
    (tmp_path / "store" / "dog" / "back").symlink_to(tmp_path)
    return root


def test_links_that_lead_outside_are_counted_and_followed_when_asked_for(tmp_path: Path) -> None:
    root = str(links(tmp_path, True))
    images, followed = open_images([root]), open_images([root], follow_links=True)
    assert images.names == ["own/0.png"]
    assert "5 links to outside, to nowhere or in a circle not followed (--follow-links" in images.notes[0]
    assert followed.names == ["cat/1.png", "dog/2.png", "own/0.png"]
    assert followed.classes == ("cat", "dog", "own")
    before = followed.fingerprint
    os.utime(tmp_path / "store" / "cat" / "1.png", (1, 1))
    assert open_images([root], follow_links=True).fingerprint != before


def test_images_of_other_formats_are_counted(tmp_path: Path) -> None:
    make_folder(tmp_path, ["1.png", "2.png"])
    for name in ("a.HEIC", "b.heic", "c.dng", "d.jpg?w=100", "e.png.2", "f.jpg.xmp", "g.txt"):
        (tmp_path / name).touch()
    images = open_images([str(tmp_path)])
    assert len(images) == 2
    assert "5 images not read (" in images.notes[0]
    assert all(kind in images.notes[0] for kind in ("2 .heic", "1 .dng", "1 .jpg?", "1 .png."))


def test_folders_of_network_disks_are_no_classes(tmp_path: Path) -> None:
    for name in ("cat", "dog", "#recycle", "cat/@eaDir/000.png", "$RECYCLE.BIN"):
        make_folder(tmp_path / name, ["1.png", "2.png"])
    images = open_images([str(tmp_path)])
    assert (images.classes, len(images)) == (("cat", "dog"), 4)


def test_a_folder_of_links_only_is_followed_with_a_word(tmp_path: Path) -> None:
    images = open_images([str(links(tmp_path, False))])
    assert images.names == ["cat/1.png", "dog/2.png"]
    assert "nothing but links: they were followed" in images.notes[0]


def test_a_folder_of_links_to_nowhere_names_the_flag(tmp_path: Path) -> None:
    (tmp_path / "x.png").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match="1 link to outside or nowhere") as caught:
        open_images([str(tmp_path)])
    assert "--follow-links" in str(caught.value)


def test_links_in_a_tar_are_their_targets_and_what_is_not_read_is_counted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "a/1.png", png(1))
        add(archive, "b/hard.png", kind=tarfile.LNKTYPE, link="a/1.png")
        add(archive, "b/soft.png", kind=tarfile.SYMTYPE, link="../a/1.png")
        add(archive, "c/away.png", kind=tarfile.SYMTYPE, link="/etc/x.png")
        add(archive, "c/pipe.png", kind=tarfile.FIFOTYPE)
        add(archive, "a/1.png", png(2))
    for _ in range(2):  # the second time, the index comes from the cache
        images = open_images([str(tmp_path / "a.tar")])
        assert images.names == ["a/1.png", "b/hard.png", "b/soft.png"]
        assert images.classes == ("a", "b")
        assert "not read: 1 earlier member of the same name, 1 link, 1 device or pipe." in images.notes[0]


def test_a_damaged_header_in_the_middle_of_a_tar_is_an_error_that_says_how_much_was_read(tmp_path: Path) -> None:
    path = Path(make_tar(tmp_path / "a.tar", [f"{number}.png" for number in range(4)]))
    data = bytearray(path.read_bytes())
    data[2 * 1024 : 2 * 1024 + 100] = b"\xff" * 100  # each member takes a header and a block
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"damaged: 2 members could be read, up to byte 2,048 of"):
        open_images([str(path)])


@pytest.mark.parametrize("at", [30, 33])  # the lengths of the extra field and of the comment: zipfile skips members
def test_a_damaged_length_in_the_directory_of_a_zip_is_an_error_that_says_how_much_was_read(
    at: int, tmp_path: Path
) -> None:
    make_zip(tmp_path / "a.zip", [f"{number}.png" for number in range(9)])
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(b"PK\x01\x02") + at] ^= 1 if at == 33 else 64
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"damaged: \d members? of 9 could be read|not a complete archive"):
        open_images([str(tmp_path / "a.zip")])


def test_an_image_that_is_none_by_a_flipped_bit_of_its_name_is_an_error(tmp_path: Path) -> None:
    make_zip(tmp_path / "a.zip", ["1.png", "2.png"])
    whole = (tmp_path / "a.zip").read_bytes()
    at = whole.rindex(b"2.png") + 4
    (tmp_path / "a.zip").write_bytes(whole[:at] + b"f" + whole[at + 1 :])
    with pytest.raises(DataError, match=r"the name of '2\.pnf' is another one"):
        open_images([str(tmp_path / "a.zip")])


def test_links_in_a_zip_are_counted_and_backslashes_are_separators(tmp_path: Path) -> None:
    make_zip(tmp_path / "a.zip", ["x\\1.png", "y\\2.png"])
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        member = zipfile.ZipInfo("link.png")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "x/1.png")
    images = open_images([str(tmp_path / "a.zip")])
    assert (images.names, images.classes) == (["x/1.png", "y/2.png"], ("x", "y"))
    assert "not read: 1 link." in images.notes[0]
