"""Files of arrays that are damaged or made to take minutes or gigabytes: one sentence each, in bounded memory."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from common.reading.array_files import (
    open_npz,
    read_arrays,
    read_npy,
    restricted_array,
    restricted_load,
    restricted_npz,
)

MOST = 150_000_000  # bytes, at any moment
ENCODE = b"c_codecs\nencode\n"


def doubled(start: bytes, times: int, pair: bytes) -> bytes:
    """`start`, then `times` times a pair of what is on the stack with itself."""
    return start + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + pair for n in range(times))


def array_of(shape: bytes, data: bytes = b"C\x08aaaaaaaa") -> bytes:
    """An array of doubles with this shape."""
    dtype = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8K\x00K\x01tR"
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
    return made + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb"


def entry(value: bytes) -> bytes:
    """A dictionary with one value."""
    return b"\x80\x02}X\x01\x00\x00\x00x" + value + b"s."


def dumped(value: object) -> bytes:
    return pickle.dumps({"x": value}, protocol=2)


def nested_encoding() -> bytes:
    value = b"X\x04\x00\x00\x00aaaa"
    for _ in range(16):
        value = ENCODE + b"(" + value + b"X\x06\x00\x00\x00utf-32tR"
    return entry(value)


PICKLES = {
    "a key whose hash takes exponential time": b"\x80\x02}" + doubled(b")", 60, b"\x86") + b"K\x01s.",
    "such keys of a mark": b"\x80\x02}(" + doubled(b")", 60, b"\x86") + b"K\x01u.",
    "such a key of an old dictionary": b"(" + doubled(b")", 60, b"\x86") + b"I1\nd.",
    "such an item of a set": entry(b"c__builtin__\nset\n(](" + doubled(b")", 60, b"\x86") + b"etR"),
    "a set": b"\x80\x04\x8f(" + doubled(b")", 60, b"\x86") + b"\x90.",
    "such a key of an ordered dictionary": entry(
        b"ccollections\nOrderedDict\n(]](" + doubled(b")", 60, b"\x86") + b"K\x01eatR"
    ),
    "a type named by such a tuple": entry(
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(" + doubled(b")", 60, b"\x86") + b"tRC\x01atR"
    ),
    "a frame of 4 GB": b"\x80\x04\x95" + (2**32).to_bytes(8, "little") + b"}.",
    "a bytearray of 4 GB": b"\x80\x05\x96" + (2**32).to_bytes(8, "little") + b"a.",
    "bytes of 4 GB": b"\x80\x04\x8e" + (2**32).to_bytes(8, "little") + b"a.",
    "a shape of such tuples": entry(array_of(doubled(b")", 60, b"\x86"))),
    "a memo of two thousand million places": b"\x80\x02}r\xff\xff\xff\x7f" + b"C\x01a",
    "lists that unfold to 2^60 values": entry(doubled(b"]", 60, b"\x86")),
    "an array of 100 KB 10,000 times": entry(
        b"](" + array_of(b"M\xd4\x30\x85", b"B" + struct.pack("<I", 100_000) + bytes(100_000)) + b"q\x01"
        + b"h\x01" * 10_000 + b"e"
    ),
    "nested encodings": nested_encoding(),
    "a sparse array of 800 TB": dumped(scipy.sparse.csc_matrix((1, 1))).replace(
        b"K\x01K\x01\x86", b"J\x00\xe1\xf5\x05J\x00\xe1\xf5\x05\x86"
    ),
    "an array larger than its bytes": entry(array_of(b"J\xff\xff\xff\x7f\x85")),
    "bytes longer than the file": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc.",
    "a deep list": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "a deep value": entry(b"]" * 50_000 + b"a" * 49_999),
    "cut": dumped(np.arange(9.0))[:-9],
    "empty": b"",
}  # fmt: skip


@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES)
def test_a_hostile_pickle_is_refused_in_bounded_memory(tmp_path: Path, content: bytes):
    """No time is asserted: hours would be noticed."""
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"a\.pkl (is not a pickle of plain arrays: .|holds a )"):
            restricted_load(path)
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()


def npy(shape: str, data: bytes = b"", descr: str = "'<f8'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def npz(member: bytes, level: int = 9) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
        archive.writestr("x.npy", member)
    return file.getvalue()


MEMBERS = {
    "a shape of 8 TB": npy("(1_000_000_000_000,)", bytes(8)),
    "a deep header": npy("(" * 3_000 + ")" * 3_000),
    "objects": npy("(1,)", b"", "'|O'"),
    "a structure": npy("(1,)", bytes(8), "[('a', '<f8')]"),
    "no header": b"text",
    "version 9": b"\x93NUMPY\x09\x00",
    "empty": b"",
}


@pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS)
@pytest.mark.parametrize("read", [read_arrays, restricted_npz])
def test_a_hostile_npz_is_refused_in_bounded_memory(tmp_path: Path, member: bytes, read):
    path = tmp_path / "a.npz"
    path.write_bytes(npz(member))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"a\.npz: x is not made of plain arrays: ."):
            read(path, ["x"])
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()


def test_zeros_that_unfold_to_gigabytes_are_refused_before_they_are_read(tmp_path: Path):
    """The directory of an archive tells how much a member unfolds to, and no more of it is read."""
    path = tmp_path / "a.npz"
    path.write_bytes(npz(npy("(10_000_000,)", bytes(80_000_000))))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"a file of [\d,]+ bytes holds at most 7[\d,]+ bytes of arrays"):
            read_arrays(path, ["x"])
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_what_real_files_hold_is_below_the_limit(tmp_path: Path):
    """Zeros compress by a factor of 1,000, and small files may hold them."""
    (tmp_path / "a.npz").write_bytes(npz(npy("(5_000_000,)", bytes(40_000_000))))
    with open_npz(tmp_path / "a.npz") as file:
        assert file.read("x").shape == (5_000_000,)
    matrix = scipy.sparse.random(17, 6890, 0.01, "csc", random_state=0)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(matrix, protocol=2))
    np.testing.assert_array_equal(restricted_array(tmp_path / "a.pkl"), matrix.toarray())


def test_an_array_that_is_read_can_be_written_to(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3)))
    read_npy(tmp_path / "a.npy")[0, 0] = 1


def mutated(random: np.random.Generator, content: bytes) -> bytes:
    """With up to four changed bytes, more often in the headers, and sometimes cut."""
    damaged = bytearray(content)
    for _ in range(random.integers(1, 5)):
        size = len(damaged) if random.random() < 0.5 else min(200, len(damaged))
        damaged[random.integers(size)] = random.integers(256)
    return bytes(damaged[: random.integers(1, 4 * len(damaged))])


@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
def test_every_damaged_file_is_read_or_refused(tmp_path: Path, suffix: str):
    arrays = {"x": np.arange(12.0).reshape(3, 4), "y": np.arange(3, dtype=np.uint8)}
    file = io.BytesIO()
    np.savez(file, **arrays)
    content = file.getvalue() if suffix == ".npz" else pickle.dumps(arrays, protocol=2)
    random, path = np.random.default_rng(0), tmp_path / f"a{suffix}"
    read = 0
    for _ in range(300):
        path.write_bytes(mutated(random, content))
        with contextlib.suppress(ValueError):
            read += len(read_arrays(path, ["x", "y"])) == 2
    assert 0 < read < 200
