"""Unpickles arrays of other projects without executing what a file names, in bounded time and memory.

Plain `pickle.load` calls every function that a file names. The unpickler here follows "Restricting Globals" in Python's
pickle documentation: it allows by name the few classes that official files contain, and replaces each with a stub of
this module. Not even numpy's constructors receive data from the file, because `numpy.ndarray` called with wrong
arguments reads memory that is not its own.

A pickle of 300 bytes can also take minutes or gigabytes. So the unpickler is Python's own one in Python, whose memo is
a dictionary (the one in C allocates as many places as the largest number in the file); keys are plain values, because
the hash of nested tuples takes exponential time; and what the file unfolds to is limited by its size (`Budget`).

Left out: chumpy expressions other than `Select`, a slice that some files contain instead of a leaf. An error names the
class that is refused.
"""

from __future__ import annotations

import math
import pickle
import struct
from typing import Any, BinaryIO, ClassVar
from zipfile import ZipExtFile

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csc_matrix, csr_matrix

__all__ = ["PLAIN_KINDS", "Budget", "unpickle_arrays"]

PLAIN_KINDS = "biufcSU"  # kinds of numpy's types: numbers and strings
MIN_BYTES = 64_000_000  # that any file may unfold to
MAX_FACTOR = 100  # of the size of larger files; real ones reach 10
MIN_NODES = 10_000


class Budget:
    """How many bytes of arrays, and how many values, a file of this size may unfold to."""

    def __init__(self, file_bytes: int) -> None:
        self._file_bytes = file_bytes
        self.max_bytes = MIN_BYTES + MAX_FACTOR * file_bytes
        self._bytes, self._nodes = self.max_bytes, MIN_NODES + 10 * file_bytes

    def spend(self, num_bytes: int) -> None:
        """Raises ValueError if the arrays so far and one of this size are too large for the file."""
        self._bytes -= num_bytes
        if self._bytes < 0:
            raise ValueError(
                f"a file of {self._file_bytes:,} bytes holds at most {self.max_bytes:,} bytes of arrays"
            )

    def spend_array(self, shape: Any, dtype: np.dtype[Any]) -> None:
        """Raises ValueError, too, for a shape that is not made of whole numbers."""
        if not isinstance(shape, tuple | list) or not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError("the shape of an array is not made of whole numbers")
        self.spend(math.prod(shape) * dtype.itemsize)

    def visit(self) -> None:
        """Raises ValueError if the file refers to its own parts more often than it has bytes."""
        self._nodes -= 1
        if self._nodes < 0:
            raise ValueError(f"a file of {self._file_bytes:,} bytes unfolds to too many values")


def unpickle_arrays(file: BinaryIO | ZipExtFile, budget: Budget) -> Any:
    """Numbers, strings, lists, tuples and dictionaries of them, and arrays: numpy's, sparse ones and chumpy's leaves as
    dense numpy arrays. Raises errors of any type for a file that is damaged or malicious."""
    bounded = _Bounded(file, budget.max_bytes)
    return _to_arrays(_RestrictedUnpickler(bounded, encoding="latin1").load(), budget)


class _Bounded:
    """A file of which no part longer than the limit is read at once: a buffer is allocated for as many bytes as are
    asked for, whether or not the file has them."""

    def __init__(self, file: BinaryIO | ZipExtFile, max_bytes: int) -> None:
        self._file, self._max_bytes = file, max_bytes
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        if count > self._max_bytes:
            raise EOFError(f"{count:,} bytes at once are more than the file can hold")
        return self._file.read(count)


def _to_arrays(value: Any, budget: Budget) -> Any:
    """The value with every stub in it replaced by its array."""
    budget.visit()
    if isinstance(value, _Stub):
        return value.array(budget)
    if isinstance(value, dict):
        return {str(name): _to_arrays(item, budget) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_to_arrays(item, budget) for item in value)
    if isinstance(value, str | bytes):
        budget.spend(len(value))
    return value


class _Stub:
    """Replaces one class of the file: stores its constructor's arguments and its state, and does not use them."""

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self, budget: Budget) -> Any:
        raise ValueError(f"there is a {type(self).__name__.lstrip('_')} in place of an array")


class _Dtype(_Stub):
    """`numpy.dtype(code, align, copy)`, with the byte order second in its state."""

    def dtype(self) -> np.dtype[Any]:
        if not isinstance(self.args[0], str | bytes):
            raise ValueError("the type of an array is not named by a text")
        code = np.dtype(self.args[0] if isinstance(self.args[0], str) else self.args[0].decode("latin1"))
        if code.kind not in PLAIN_KINDS:
            raise ValueError(f"arrays of {code.kind!r} are refused; numbers and strings are allowed")
        return code.newbyteorder(self.state[1] if self.state else "=")


class _Array(_Stub):
    """`numpy.ndarray` or `numpy.matrix`. Its state is (version, shape, dtype, column-major, bytes), with a list in
    place of the bytes for an object array."""

    def array(self, budget: Budget) -> Any:
        _, shape, dtype, column_major, data = self.state
        if isinstance(data, list):
            return _objects(shape, data, budget)
        flat = np.frombuffer(_bytes(data), dtype.dtype())
        budget.spend_array(shape, flat.dtype)
        return flat.reshape(shape, order="F" if column_major else "C").copy()


class _FromBuffer(_Stub):
    """`numpy.core.numeric._frombuffer(bytes, dtype, shape, order, axis_order)`, an array of protocol 5. The last
    argument, of numpy 2.4, goes with order "K": the order of the axes of the array whose bytes these are."""

    def array(self, budget: Budget) -> NDArray[Any]:
        data, dtype, shape, order, *axes = self.args
        flat = np.frombuffer(data, dtype.dtype())
        budget.spend_array(shape, flat.dtype)
        if order == "K":
            return flat.reshape(shape).transpose(*axes).copy()
        return flat.reshape(shape, order=order).copy()


def _objects(shape: Any, items: list[Any], budget: Budget) -> Any:
    """The one object of an array of shape (), or a list of the objects of one of shape (n,)."""
    budget.spend_array(shape, np.dtype(np.intp))
    if tuple(shape) not in ((), (len(items),)):
        raise ValueError(f"an array of objects of shape {shape} is refused; (n,) and () are allowed")
    return _to_arrays(items, budget) if shape else _to_arrays(items[0], budget)


class _Scalar(_Stub):
    """`numpy.core.multiarray.scalar(dtype, bytes)`, as an array of shape ()."""

    def array(self, budget: Budget) -> NDArray[Any]:
        dtype, data = self.args
        return np.frombuffer(_bytes(data), dtype.dtype()).reshape(()).copy()


class _ChumpyLeaf(_Stub):
    """`chumpy.ch.Ch`, whose array is its attribute `x`."""

    def array(self, budget: Budget) -> NDArray[Any]:
        return np.asarray(_to_arrays(self.state["x"], budget))


class _ChumpySelect(_Stub):
    """`chumpy.reordering.Select`, a slice of a leaf: `a.ravel()[idxs]` in `preferred_shape`."""

    def array(self, budget: Budget) -> NDArray[Any]:
        state = _to_arrays(self.state, budget)
        return np.asarray(state["a"]).ravel()[state["idxs"]].reshape(state["preferred_shape"])


class _CscMatrix(_Stub):
    """`scipy.sparse.csc_matrix` or `csc_array`."""

    build = csc_matrix

    def array(self, budget: Budget) -> NDArray[Any]:
        state = _to_arrays(self.state, budget)
        parts = (state["data"], state["indices"], state["indptr"])
        matrix = self.build(parts, shape=_sparse_shape(state, budget))
        matrix.check_format(full_check=True)  # toarray() does not check its indices
        return matrix.toarray()


class _CsrMatrix(_CscMatrix):
    build = csr_matrix


class _CooMatrix(_Stub):
    """`scipy.sparse.coo_matrix` or `coo_array`, whose attributes `row` and `col` were later one, `coords`."""

    def array(self, budget: Budget) -> NDArray[Any]:
        state = _to_arrays(self.state, budget)
        row, col = state["coords"] if "coords" in state else (state["row"], state["col"])
        return coo_matrix(
            (state["data"], (row, col)), shape=_sparse_shape(state, budget)
        ).toarray()  # checks the indices


def _sparse_shape(state: dict[str, Any], budget: Budget) -> Any:
    """The attribute `shape`, which was later renamed to `_shape`, if the dense array is allowed."""
    shape = state["_shape"] if "_shape" in state else state["shape"]
    budget.spend_array(shape, np.asarray(state["data"]).dtype)
    return shape


class _Reconstruct(_Stub):
    """`numpy.core.multiarray._reconstruct(class, shape, code)` and `copy_reg._reconstructor(class, base, state)`: an
    object of that class, whose state follows. The class must be a stub."""

    def __new__(cls, kind: type[_Stub], *_: Any) -> _Stub:  # type: ignore[misc]
        if not issubclass(kind, _Stub):
            raise pickle.UnpicklingError(f"it reconstructs a {kind.__name__}, which is refused")
        return kind()


class _Unused(_Stub):
    """A set, which is an attribute of chumpy's objects. Its items are not hashed."""


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """`_codecs.encode`, with which Python 3 pickles bytes in protocol 2. Other encodings multiply the length."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("it encodes something other than a text in latin1")
    return text.encode("latin1")


def _dictionary(*items: Any) -> dict[Any, Any]:
    """`collections.OrderedDict`, of pairs."""
    made: dict[Any, Any] = {}
    for pairs in items:
        for key, value in pairs.items() if isinstance(pairs, dict) else pairs:
            made[_plain(key)] = value
    return made


def _plain(key: Any) -> Any:
    if not isinstance(key, str | bytes | int | float | None):
        raise pickle.UnpicklingError(f"it has a {type(key).__name__} as a key")
    return key


def _bytes(data: bytes | str) -> bytes:
    return data.encode("latin1") if isinstance(data, str) else data  # Python 2 pickles bytes as a string


_ALLOWED = {
    ("chumpy.ch", "Ch"): _ChumpyLeaf,
    ("chumpy.reordering", "Select"): _ChumpySelect,
    ("copy_reg", "_reconstructor"): _Reconstruct,
    ("copyreg", "_reconstructor"): _Reconstruct,
    ("__builtin__", "object"): object,
    ("builtins", "object"): object,
    ("__builtin__", "set"): _Unused,
    ("builtins", "set"): _Unused,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): _dictionary,
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


_PythonUnpickler: Any = pickle.__dict__["_Unpickler"]  # which pickle.py keeps beside the one in C


class _RestrictedUnpickler(_PythonUnpickler):
    dispatch: ClassVar[dict[int, Any]] = dict(_PythonUnpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return _ALLOWED[module, name]

    def _checked_setitem(self) -> None:
        _plain(self.stack[-2])
        _PythonUnpickler.load_setitem(self)

    def _checked_setitems(self) -> None:
        for key in self.stack[::2]:
            _plain(key)
        _PythonUnpickler.load_setitems(self)

    def _checked_dict(self) -> None:
        for key in self.stack[::2]:
            _plain(key)
        _PythonUnpickler.load_dict(self)

    def _checked_build(self) -> None:
        """Sets a state, which in Python's own pickle may be any attribute of any object."""
        if not isinstance(self.stack[-2], _Stub):
            raise pickle.UnpicklingError(f"it sets attributes of a {type(self.stack[-2]).__name__}")
        _PythonUnpickler.load_build(self)

    def _read_bytearray(self) -> None:
        """Python's own allocates as many bytes as the file says, before it reads."""
        (count,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(count)))

    def _refuse_set(self) -> None:
        raise pickle.UnpicklingError("it holds a set, which is refused")

    dispatch[pickle.SETITEM[0]] = _checked_setitem
    dispatch[pickle.SETITEMS[0]] = _checked_setitems
    dispatch[pickle.DICT[0]] = _checked_dict
    dispatch[pickle.BUILD[0]] = _checked_build
    dispatch[pickle.BYTEARRAY8[0]] = _read_bytearray
    for code in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET):
        dispatch[code[0]] = _refuse_set
