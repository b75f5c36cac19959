"""Files that are not what they seem: pipes, links, sizes beyond memory, members of no array."""

from __future__ import annotations

import io
import os
import resource
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from robustprune.run.files import check_memory, memory_limit, plain_file, read_bytes
from robustprune.tasks import load_sentences, load_task

GOOD = "a,5,2\nb,1,2\n"


def member(shape: tuple[int, ...], dtype: str = "<f4", values: bytes = b"") -> bytes:
    """A .npy file whose header promises that shape."""
    file = io.BytesIO()
    described = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)  # type: ignore[no-untyped-call]
    return file.getvalue() + values


def archive(path: Path, how: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Path:
    """An .npz file, whole but for the members given."""
    x, y = np.arange(8, dtype="<f4").reshape(2, 4), np.arange(2)
    whole = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    with zipfile.ZipFile(path, "w", how) as file:
        for name, value in whole.items():
            content = io.BytesIO()
            np.save(content, value)
            file.writestr(f"{name}.npy", members.get(name, content.getvalue()))
    return path


def peak() -> int:
    """The most memory this process has taken, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"no array", "x_train is no array but some other file"),
        (b"", "x_train is no array but some other file"),
        (member((2, 4)), "has 0 bytes of values, which does not fit its shape"),
        (member((2, 4), values=b"x" * 99), "has 99 bytes of values"),
        (member((10**30, 4)), "has 0 bytes of values"),
        (member((-2, 4), values=b""), "with a size below zero"),
        (member((2, 4), "|O"), "an array of Python objects, such as None"),
        (b"\x93NUMPY\x09\x00" + b"x" * 99, "of version .* of numpy's format"),
        (b"\x93NUMPY\x01\x00\x04\x00{[(x", "cannot be read as"),
    ],
)
def test_members_that_are_no_arrays_are_one_line(
    tmp_path: Path, content: bytes, match: str
) -> None:
    path = archive(tmp_path / "a.npz", x_train=content)
    with pytest.raises(ValueError, match=match) as refused:
        load_task("npz", path=path)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("code", [0x110000, 0x01000062, 0xD800, 2**32 - 1])
@pytest.mark.parametrize("order", ["<", ">"])
def test_texts_of_no_characters_are_refused(tmp_path: Path, code: int, order: str) -> None:
    values = np.array([ord("a"), ord("b")], dtype=f"{order}u4")
    good = member((2,), f"{order}U1", values.tobytes())
    path = archive(tmp_path / "a.npz", y_train=good, y_test=good)
    assert load_task("npz", path=path).class_names == ("a", "b")
    values[1] = code
    bad = member((2,), f"{order}U1", values.tobytes())
    with pytest.raises(ValueError, match="y_test holds texts with numbers that are no characters"):
        load_task("npz", path=archive(tmp_path / "a.npz", y_train=good, y_test=bad))


def test_archives_that_numpy_does_not_write_are_refused(tmp_path: Path) -> None:
    for how in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with pytest.raises(ValueError, match="compressed in another way"):
            load_task("npz", path=archive(tmp_path / "a.npz", how))
    content = bytearray(archive(tmp_path / "b.npz").read_bytes())
    for start in (4, content.index(b"PK\x01\x02") + 6):
        content[start] = 99  # the version of the zip format that is needed to read it
    (tmp_path / "b.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read as \.npz: zip file version"):
        load_task("npz", path=tmp_path / "b.npz")


def test_an_archive_that_unpacks_beyond_the_limit_takes_no_memory(tmp_path: Path) -> None:
    """Two megabytes that would be 384 MiB of bytes, and 1.5 GiB as float32."""
    path = tmp_path / "a.npz"
    y = np.arange(2)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        with file.open("x.npy", "w", force_zip64=True) as zeros:
            zeros.write(member((2, 3 * 2**26), "|u1"))
            for _ in range(3 * 2**7):
                zeros.write(bytes(2**20))
        content = io.BytesIO()
        np.save(content, y)
        file.writestr("y.npy", content.getvalue())
    assert path.stat().st_size < 2**21
    before = peak()
    with pytest.raises(
        ValueError, match=r"x, y would take 1\.5 GiB, more than the limit of 1 GiB; .*"
    ):
        load_task("npz", path=path, test=0.5)
    assert peak() - before < 2**26


def test_the_limit_grows_with_the_file_and_is_set_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ROBUSTPRUNE_MAX_GB", raising=False)
    assert memory_limit() == 2**30
    assert memory_limit(2**30) == 20 * 2**30
    monkeypatch.setenv("ROBUSTPRUNE_MAX_GB", "1e-8")
    assert memory_limit(2**40) == 10
    with pytest.raises(ValueError, match="set the environment variable ROBUSTPRUNE_MAX_GB"):
        check_memory(11, "it")
    with pytest.raises(ValueError, match=r"a\.npz cannot be read .* would take"):
        load_task("npz", path=archive(tmp_path / "a.npz"))
    (tmp_path / "t.txt").write_text("more than ten bytes")
    with pytest.raises(ValueError, match="its content would take"):
        read_bytes(tmp_path / "t.txt")
    for wrong in ("0", "-1", "nan", "much"):
        monkeypatch.setenv("ROBUSTPRUNE_MAX_GB", wrong)
        with pytest.raises(ValueError, match="is no positive number of GiB"):
            memory_limit()


def test_padding_is_capped(tmp_path: Path) -> None:
    """One series of 2^16 steps beside 2^13 of one step would be 2 GiB, padded."""
    text = f"a,{','.join(['1'] * 2**16)}\n" + "b,1\n" * 2**13
    for part in ("TRAIN", "TEST"):
        (tmp_path / f"x_{part}.csv").write_text(text if part == "TRAIN" else GOOD)
    with pytest.raises(ValueError, match=r"1 channels and 65536 steps would take 2\.001 GiB"):
        load_task("csv", path=tmp_path / "x_TRAIN.csv", length="pad")


# -- pipes, devices, links ---------------------------------------------------------------------


def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x_TRAIN.csv")
    (tmp_path / "x_TEST.csv").write_text(GOOD)
    for path in (tmp_path, tmp_path / "x_TRAIN.csv"):
        with pytest.raises(ValueError, match=r"x_TRAIN\.csv is a named pipe, not a file"):
            load_task("csv", path=path)
    with pytest.raises(ValueError, match="named pipe"):
        load_task("npz", path=tmp_path / "x_TRAIN.csv")
    with pytest.raises(ValueError, match="/dev/zero is a device"):
        load_task("npz", path=Path("/dev/zero"))
    with pytest.raises(ValueError, match="is a folder"):
        load_task("npz", path=tmp_path)
    os.mkfifo(tmp_path / "train.tsv")
    with pytest.raises(ValueError, match="named pipe"):
        load_sentences("text", path=tmp_path)


def test_links_below_the_folder_that_is_named_are_refused(tmp_path: Path) -> None:
    outside, data = tmp_path / "outside", tmp_path / "data"
    for folder in (outside, data, data / "Toy"):
        folder.mkdir()
    for part in ("TRAIN", "TEST"):
        (outside / f"Toy_{part}.tsv").write_text(GOOD.replace(",", "\t"))
        (data / "Toy" / f"Toy_{part}.tsv").symlink_to(outside / f"Toy_{part}.tsv")
    match = r"Toy_TRAIN\.tsv is a symbolic link, which could lead out of"
    with pytest.raises(ValueError, match=match):
        load_task("ucr:Toy", data_dir=data)
    with pytest.raises(ValueError, match=match):
        load_task("series", path=data / "Toy")
    # a link that the user names is the user's own
    assert len(load_task("series", path=data / "Toy" / "Toy_TRAIN.tsv").train) == 2
    (tmp_path / "linked").symlink_to(outside)
    assert len(load_task("series", path=tmp_path / "linked").train) == 2
    (data / "Other").symlink_to(outside)
    with pytest.raises(ValueError, match="Other is a symbolic link"):
        plain_file(data / "Other" / "Toy_TRAIN.tsv", within=data)


def test_links_to_idx_files_and_sentences_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("sentence\tlabel\n")
    (tmp_path / "SST-2").mkdir()
    (tmp_path / "SST-2" / "train.tsv").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"train\.tsv is a symbolic link"):
        load_sentences("sst2", data_dir=tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (raw / name).symlink_to(tmp_path / "secret")
    with pytest.raises(FileNotFoundError, match=r"idx3-ubyte is a symbolic link"):
        load_task("mnist", data_dir=tmp_path, download=False)


# -- idx ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is no idx file of 3 dimensions"),
        (b"\0\0\x08\x03", "is no idx file of 3 dimensions"),
        (b"PK\x08\x03" + bytes(12), "is no idx file of 3 dimensions"),
        (b"\0\0\x0a\x03" + bytes(12), "values of type 10 in 3 dimensions"),
        (b"\0\0\x08\x01" + bytes(12), "values of type 8 in 1 dimensions"),
        (b"\0\0\x08\x03" + struct.pack(">3I", *[2**32 - 1] * 3), "promises .* and holds 0"),
        (b"\0\0\x08\x03" + struct.pack(">3I", 1, 2, 2) + b"12345", "promises 4 .* and holds 5"),
    ],
)
def test_idx_files_hold_what_they_promise(tmp_path: Path, content: bytes, match: str) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(content)
    (raw / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x01\0")
    with pytest.raises(FileNotFoundError, match=match):
        load_task("mnist", data_dir=tmp_path, download=False)


@pytest.mark.parametrize("y", [np.array([0.5, 1]), np.array(["a", "b"]), np.zeros((2, 1), int)])
def test_cifar_takes_whole_numbers_for_labels(tmp_path: Path, y: np.ndarray) -> None:
    (tmp_path / "CIFAR-10").mkdir()
    x = np.zeros((2, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "CIFAR-10" / "cifar10.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(ValueError, match=r"give uint8 \(N, 32, 32, 3\) and whole numbers"):
        load_task("cifar10", data_dir=tmp_path)
