"""Reads body models and data sets that strangers wrote without running anything that is in them.

Official SMPL files are Python 2 pickles of numpy arrays, a scipy sparse matrix and `chumpy.ch.Ch` objects.
Plain `pickle.load` executes whatever such a file names, and needs chumpy, which no longer imports on numpy >=
1.24. The unpickler here admits by name the few classes that those files hold ("Restricting Globals" in
Python's pickle documentation) and puts a record of our own in the place of each, so that not even numpy's
constructors see the file: `numpy.ndarray` itself, called with the wrong arguments, reads foreign memory.
`.npz` files of body models are read array by array with `allow_pickle=False`, so the object arrays in official
SMPL-X files never load. Data sets keep what is needed in such arrays (mmhuman3d's `smpl` is a pickled dictionary);
`restricted_npz` gives them to the same unpickler.

Left out: chumpy expressions but for `Select`, a slice that some files of the family keep in place of a leaf;
any other is refused by its name.
"""

from __future__ import annotations

import codecs
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile, ZipExtFile, ZipFile, is_zipfile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix

from common.validate import require

__all__ = ["read_arrays", "restricted_array", "restricted_load", "restricted_npz"]


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The named arrays of an `.npz` or an official `.pkl`, dense.

    Raises FileNotFoundError where there is no file, ValueError where it is of another kind, cannot be read
    safely, or lacks one of the names.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no body model at {path}")
    if path.suffix == ".npz":
        return _read_npz(path, names)
    if path.suffix == ".pkl":
        content = restricted_load(path)
        require(content, names, str(path))
        return {name: np.asarray(content[name]) for name in names}
    raise ValueError(f"a body model is an .npz or a .pkl file, not {path.name}")


def restricted_load(path: Path) -> dict[str, Any]:
    """A pickled dictionary of numbers, texts, lists, numpy arrays, sparse matrices and chumpy leaves; the
    last three come out as dense numpy arrays.

    Reads what Python 2 wrote (official SMPL, 3DPW) and what Python 3 writes. Raises ValueError for a pickle
    that asks for anything else, naming it, and for one that is damaged or holds no dictionary.
    """
    content = _unpickled(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dictionary")
    return content


def restricted_array(path: Path) -> NDArray[Any]:
    """The array that a pickle consists of, by the same rules. Raises ValueError for anything else."""
    content = _unpickled(path)
    if not isinstance(content, np.ndarray):
        raise ValueError(f"{path} holds a {type(content).__name__}, not an array")
    return content


def restricted_npz(path: Path, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    """The named members of an `.npz`, and those of `optional` that it has; no other is opened.

    An array of objects comes out as what it holds: the one object where it has no dimension (a dictionary, as
    mmhuman3d writes them), a list where it has one. Raises FileNotFoundError where there is no file, ValueError
    where it is no npz, lacks one of the names, or pickles anything but what `restricted_load` reads.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no npz file at {path}")
    if not is_zipfile(path):
        raise ValueError(f"{path} is no npz archive")
    with ZipFile(path) as archive:
        found = [name.removesuffix(".npy") for name in archive.namelist()]
        require(found, names, str(path))
        members = {}
        for name in (*names, *(name for name in optional if name in found)):
            try:
                with cast("ZipExtFile", archive.open(f"{name}.npy")) as file:
                    members[name] = _read_member(file)
            except (*_BROKEN, BadZipFile) as error:
                raise ValueError(f"{path}: {name} is not made of plain arrays: {error}") from error
    return members


# What Python's unpickler and the records below raise on a file that is damaged or made to deceive.
_BROKEN = (
    pickle.UnpicklingError, EOFError, ArithmeticError, AttributeError, LookupError, MemoryError,
    RecursionError, TypeError, ValueError,
)  # fmt: skip


def _unpickled(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _plain(_RestrictedUnpickler(file, encoding="latin1").load())
    except _BROKEN as error:
        raise ValueError(f"{path} is not a pickle of plain arrays: {error}") from error


def _read_npz(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    if not is_zipfile(path):
        raise ValueError(f"{path} is no npz archive")
    with np.load(path, allow_pickle=False) as file:
        require(file.files, names, str(path))
        return {name: file[name] for name in names}


def _read_member(file: ZipExtFile) -> Any:
    """One `.npy` file: an array of numbers or texts, or what an array of objects holds.

    numpy pickles the latter right after the header, which has versions 1 and 2 (3 is for names of fields).
    """
    read_header = {1: npy.read_array_header_1_0, 2: npy.read_array_header_2_0}
    version, _ = npy.read_magic(file)
    if version not in read_header:
        raise pickle.UnpicklingError(f"it has a header of version {version}.0; 1.0 and 2.0 are read")
    shape, column_major, dtype = read_header[version](file)
    if dtype.hasobject:
        return _plain(_RestrictedUnpickler(file, encoding="latin1").load())
    flat = np.frombuffer(file.read(), dtype)
    return flat.reshape(shape, order="F" if column_major else "C")


def _plain(value: Any) -> Any:
    """The value with every record in it replaced by its array."""
    if isinstance(value, _Record):
        return value.array()
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return value


class _Record:
    """Stands in for one class of the file: keeps what it was made from and is told, and does nothing with
    it."""

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> Any:
        raise ValueError(f"a {type(self).__name__.lstrip('_')} stands where an array belongs")


class _Dtype(_Record):
    """`numpy.dtype(code, align, copy)`, with the byte order second in its state."""

    def dtype(self) -> np.dtype[Any]:
        code = np.dtype(str(self.args[0]))
        if code.kind not in "biufcSU":
            raise ValueError(f"arrays of {code} are refused; numbers and texts are admitted")
        return code.newbyteorder(self.state[1] if self.state else "=")


class _Array(_Record):
    """`numpy.ndarray`, with (version, shape, dtype, column-major, bytes) as its state; a list in place of the
    bytes where it holds objects."""

    def array(self) -> Any:
        _, shape, dtype, column_major, data = self.state
        if isinstance(data, list):
            return _objects(shape, data)
        flat = np.frombuffer(_bytes(data), dtype.dtype())
        return flat.reshape(shape, order="F" if column_major else "C").copy()


def _objects(shape: tuple[int, ...], items: list[Any]) -> Any:
    """What an array of objects holds: its one object, or a list of them."""
    if shape not in ((), (len(items),)):
        raise ValueError(f"an array of objects of the shape {shape} is refused; (n,) and () are admitted")
    return _plain(items) if shape else _plain(items[0])


class _Scalar(_Record):
    """`numpy.core.multiarray.scalar(dtype, bytes)`, as an array of no dimension."""

    def array(self) -> NDArray[Any]:
        dtype, data = self.args
        return np.frombuffer(_bytes(data), dtype.dtype()).reshape(()).copy()


class _ChumpyLeaf(_Record):
    """`chumpy.ch.Ch`, whose array is its attribute `x`."""

    def array(self) -> NDArray[Any]:
        return np.asarray(_plain(self.state["x"]))


class _ChumpySelect(_Record):
    """`chumpy.reordering.Select`, a slice of a leaf: `a.ravel()[idxs]` in a preferred shape."""

    def array(self) -> NDArray[Any]:
        state = _plain(self.state)
        return np.asarray(state["a"]).ravel()[state["idxs"]].reshape(state["preferred_shape"])


class _CscMatrix(_Record):
    """`scipy.sparse.csc_matrix`, whose attribute `shape` later became `_shape`."""

    build = csc_matrix

    def array(self) -> NDArray[Any]:
        state = _plain(self.state)
        shape = state["_shape"] if "_shape" in state else state["shape"]
        matrix = self.build((state["data"], state["indices"], state["indptr"]), shape=shape)
        matrix.check_format(full_check=True)  # indices outside the matrix would be written to all the same
        return matrix.toarray()


class _CsrMatrix(_CscMatrix):
    build = csr_matrix


class _Reconstruct(_Record):
    """`numpy.core.multiarray._reconstruct(class, shape, code)` and `copy_reg._reconstructor(class, base,
    state)`: an object of that class without a state, which follows. The class can only be one of the
    records."""

    def __new__(cls, kind: type[_Record], *_: Any) -> _Record:  # type: ignore[misc]
        if not issubclass(kind, _Record):
            raise pickle.UnpicklingError(f"it builds a {kind.__name__} piecemeal, which is refused")
        return kind()


def _bytes(data: bytes | str) -> bytes:
    return data.encode("latin1") if isinstance(data, str) else data  # Python 2 wrote its bytes as text


_ADMITTED = {
    ("chumpy.ch", "Ch"): _ChumpyLeaf,
    ("chumpy.reordering", "Select"): _ChumpySelect,
    ("copy_reg", "_reconstructor"): _Reconstruct,
    ("copyreg", "_reconstructor"): _Reconstruct,
    ("__builtin__", "object"): object,
    ("builtins", "object"): object,
    ("__builtin__", "set"): set,  # chumpy keeps one beside its array
    ("builtins", "set"): set,
    ("_codecs", "encode"): codecs.encode,  # how Python 3 writes bytes in protocol 2
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
    **{(f"scipy.sparse.{module}", "csc_matrix"): _CscMatrix for module in ("csc", "_csc")},
    **{(f"scipy.sparse.{module}", "csr_matrix"): _CsrMatrix for module in ("csr", "_csr")},
}


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return _ADMITTED[module, name]
