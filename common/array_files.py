"""Reads arrays from pickle and npz files of other projects without executing what the files name.

Official SMPL files are Python 2 pickles of numpy arrays, a scipy sparse matrix and `chumpy.ch.Ch` objects. Plain
`pickle.load` calls every function that a file names, and needs chumpy, which cannot be imported with numpy >= 1.24.
The unpickler here follows "Restricting Globals" in Python's pickle documentation: it allows by name the few classes
that those files contain, and replaces each with a stub of this module. Not even numpy's constructors receive data from
the file, because `numpy.ndarray` called with wrong arguments reads memory that is not its own.

An `.npz` of a body model is read array by array with `allow_pickle=False`; the object arrays in official SMPL-X files
are never loaded. Data sets store required values in object arrays (mmhuman3d's `smpl` is a pickled dictionary), and
`restricted_npz` passes these to the same unpickler.

Left out: chumpy expressions other than `Select`, a slice that some files contain instead of a leaf. An error names the
class that is refused.
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
from scipy.sparse import coo_matrix, csc_matrix, csr_matrix

from common.files import PathLike
from common.validate import require

__all__ = ["read_arrays", "restricted_array", "restricted_load", "restricted_npz"]


def read_arrays(path: PathLike, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The named arrays of an `.npz` or an official `.pkl`, dense.

    Raises FileNotFoundError if there is no file, and ValueError if it has another suffix, cannot be read safely, or
    lacks one of the names.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of arrays at {path}")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _read_npz(path, names)
    if suffix == ".pkl":
        content = restricted_load(path)
        require(content, names, str(path))
        return {name: np.asarray(content[name]) for name in names}
    raise ValueError(f"arrays are read from an .npz or a .pkl file, not from {path.name}")


def restricted_load(path: PathLike) -> dict[str, Any]:
    """A pickled dictionary of numbers, strings, lists, numpy arrays, sparse matrices and chumpy leaves. The last three
    are returned as dense numpy arrays.

    Reads pickles of Python 2 (official SMPL, 3DPW) and Python 3. Raises ValueError for a pickle that names any other
    class or function, is damaged, or does not contain a dictionary.
    """
    content = _unpickle(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dictionary")
    return content


def restricted_array(path: PathLike) -> NDArray[Any]:
    """A pickled array, read in the same way. Raises ValueError if the pickle contains anything else."""
    content = _unpickle(path)
    if not isinstance(content, np.ndarray):
        raise ValueError(f"{path} holds a {type(content).__name__}, not an array")
    return content


def restricted_npz(path: PathLike, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    """The named members of an `.npz`, and those of `optional` that it has. No other member is opened.

    An object array of shape () is returned as its one object (a dictionary, in mmhuman3d's files), one of shape (n,)
    as a list. Raises FileNotFoundError if there is no file, and ValueError if it is not an npz, lacks one of the names,
    or pickles anything that `restricted_load` refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no npz file at {path}")
    if not is_zipfile(path):
        raise ValueError(f"{path} is not an npz archive")
    with ZipFile(path) as archive:
        found = [name.removesuffix(".npy") for name in archive.namelist()]
        require(found, names, str(path))
        members = {}
        for name in (*names, *(name for name in optional if name in found)):
            try:
                with cast("ZipExtFile", archive.open(f"{name}.npy")) as file:
                    members[name] = _read_member(file)
            except (*_READ_ERRORS, BadZipFile) as error:
                raise ValueError(f"{path}: {name} is not made of plain arrays: {error}") from error
    return members


# raised by Python's unpickler and by the stubs below for a file that is damaged or malicious
_READ_ERRORS = (
    pickle.UnpicklingError, EOFError, ArithmeticError, AttributeError, LookupError, MemoryError,
    RecursionError, TypeError, ValueError,
)  # fmt: skip


def _unpickle(path: PathLike) -> Any:
    try:
        with Path(path).open("rb") as file:
            return _to_arrays(_RestrictedUnpickler(file, encoding="latin1").load())
    except _READ_ERRORS as error:
        raise ValueError(f"{path} is not a pickle of plain arrays: {error}") from error


def _read_npz(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    if not is_zipfile(path):
        raise ValueError(f"{path} is not an npz archive")
    with np.load(path, allow_pickle=False) as file:
        require(file.files, names, str(path))
        return {name: file[name] for name in names}


def _read_member(file: ZipExtFile) -> Any:
    """One `.npy` file: an array of numbers or strings, or the objects of an object array.

    numpy pickles objects directly after the header. Header version 3, for structured arrays, is not read.
    """
    read_header = {1: npy.read_array_header_1_0, 2: npy.read_array_header_2_0}
    version, _ = npy.read_magic(file)
    if version not in read_header:
        raise pickle.UnpicklingError(f"it has a header of version {version}.0; 1.0 and 2.0 are read")
    shape, column_major, dtype = read_header[version](file)
    if dtype.hasobject:
        return _to_arrays(_RestrictedUnpickler(file, encoding="latin1").load())
    flat = np.frombuffer(file.read(), dtype)
    return flat.reshape(shape, order="F" if column_major else "C")


def _to_arrays(value: Any) -> Any:
    """The value with every stub in it replaced by its array."""
    if isinstance(value, _Stub):
        return value.array()
    if isinstance(value, dict):
        return {str(name): _to_arrays(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_to_arrays(item) for item in value)
    return value


class _Stub:
    """Replaces one class of the file: stores its constructor's arguments and its state, and does not use them."""

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> Any:
        raise ValueError(f"there is a {type(self).__name__.lstrip('_')} in place of an array")


class _Dtype(_Stub):
    """`numpy.dtype(code, align, copy)`, with the byte order second in its state."""

    def dtype(self) -> np.dtype[Any]:
        code = np.dtype(str(self.args[0]))
        if code.kind not in "biufcSU":
            raise ValueError(f"arrays of {code} are refused; numbers and strings are allowed")
        return code.newbyteorder(self.state[1] if self.state else "=")


class _Array(_Stub):
    """`numpy.ndarray` or `numpy.matrix`. Its state is (version, shape, dtype, column-major, bytes), with a list in
    place of the bytes for an object array."""

    def array(self) -> Any:
        _, shape, dtype, column_major, data = self.state
        if isinstance(data, list):
            return _objects(shape, data)
        flat = np.frombuffer(_bytes(data), dtype.dtype())
        return flat.reshape(shape, order="F" if column_major else "C").copy()


class _FromBuffer(_Stub):
    """`numpy.core.numeric._frombuffer(bytes, dtype, shape, order, axis_order)`, an array of protocol 5. The last
    argument, of numpy 2.4, goes with order "K": the order of the axes of the array whose bytes these are."""

    def array(self) -> NDArray[Any]:
        data, dtype, shape, order, *axes = self.args
        flat = np.frombuffer(data, dtype.dtype())
        if order == "K":
            return flat.reshape(shape).transpose(*axes).copy()
        return flat.reshape(shape, order=order).copy()


def _objects(shape: tuple[int, ...], items: list[Any]) -> Any:
    """The one object of an array of shape (), or a list of the objects of one of shape (n,)."""
    if shape not in ((), (len(items),)):
        raise ValueError(f"an array of objects of shape {shape} is refused; (n,) and () are allowed")
    return _to_arrays(items) if shape else _to_arrays(items[0])


class _Scalar(_Stub):
    """`numpy.core.multiarray.scalar(dtype, bytes)`, as an array of shape ()."""

    def array(self) -> NDArray[Any]:
        dtype, data = self.args
        return np.frombuffer(_bytes(data), dtype.dtype()).reshape(()).copy()


class _ChumpyLeaf(_Stub):
    """`chumpy.ch.Ch`, whose array is its attribute `x`."""

    def array(self) -> NDArray[Any]:
        return np.asarray(_to_arrays(self.state["x"]))


class _ChumpySelect(_Stub):
    """`chumpy.reordering.Select`, a slice of a leaf: `a.ravel()[idxs]` in `preferred_shape`."""

    def array(self) -> NDArray[Any]:
        state = _to_arrays(self.state)
        return np.asarray(state["a"]).ravel()[state["idxs"]].reshape(state["preferred_shape"])


class _CscMatrix(_Stub):
    """`scipy.sparse.csc_matrix` or `csc_array`."""

    build = csc_matrix

    def array(self) -> NDArray[Any]:
        state = _to_arrays(self.state)
        parts = (state["data"], state["indices"], state["indptr"])
        matrix = self.build(parts, shape=_sparse_shape(state))
        matrix.check_format(full_check=True)  # toarray() does not check its indices
        return matrix.toarray()


class _CsrMatrix(_CscMatrix):
    build = csr_matrix


class _CooMatrix(_Stub):
    """`scipy.sparse.coo_matrix` or `coo_array`, whose attributes `row` and `col` were later one, `coords`."""

    def array(self) -> NDArray[Any]:
        state = _to_arrays(self.state)
        row, col = state["coords"] if "coords" in state else (state["row"], state["col"])
        return coo_matrix(
            (state["data"], (row, col)), shape=_sparse_shape(state)
        ).toarray()  # checks the indices


def _sparse_shape(state: dict[str, Any]) -> Any:
    """The attribute `shape`, which was later renamed to `_shape`."""
    return state["_shape"] if "_shape" in state else state["shape"]


class _Reconstruct(_Stub):
    """`numpy.core.multiarray._reconstruct(class, shape, code)` and `copy_reg._reconstructor(class, base, state)`: an
    object of that class, whose state follows. The class must be a stub."""

    def __new__(cls, kind: type[_Stub], *_: Any) -> _Stub:  # type: ignore[misc]
        if not issubclass(kind, _Stub):
            raise pickle.UnpicklingError(f"it reconstructs a {kind.__name__}, which is refused")
        return kind()


def _bytes(data: bytes | str) -> bytes:
    return data.encode("latin1") if isinstance(data, str) else data  # Python 2 pickles bytes as a string


_ALLOWED = {
    ("chumpy.ch", "Ch"): _ChumpyLeaf,
    ("chumpy.reordering", "Select"): _ChumpySelect,
    ("copy_reg", "_reconstructor"): _Reconstruct,
    ("copyreg", "_reconstructor"): _Reconstruct,
    ("__builtin__", "object"): object,
    ("builtins", "object"): object,
    ("__builtin__", "set"): set,  # an attribute of chumpy's objects
    ("builtins", "set"): set,
    ("_codecs", "encode"): codecs.encode,  # Python 3 pickles bytes with it in protocol 2
    ("collections", "OrderedDict"): dict,
    ("numpy", "ndarray"): _Array,
    **{(module, "matrix"): _Array for module in ("numpy", "numpy.matrixlib.defmatrix")},
    ("numpy", "dtype"): _Dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer for core in ("core", "_core")},
    **{(f"scipy.sparse.{module}", "csc_matrix"): _CscMatrix for module in ("csc", "_csc")},
    **{(f"scipy.sparse.{module}", "csr_matrix"): _CsrMatrix for module in ("csr", "_csr")},
    **{(f"scipy.sparse.{module}", "coo_matrix"): _CooMatrix for module in ("coo", "_coo")},
    ("scipy.sparse._csc", "csc_array"): _CscMatrix,
    ("scipy.sparse._csr", "csr_array"): _CsrMatrix,
    ("scipy.sparse._coo", "coo_array"): _CooMatrix,
}


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return _ALLOWED[module, name]
