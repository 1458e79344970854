"""The restricted readers read files in the layout of the official ones, and execute nothing that a file names.

The files written here are protocol-2 pickles with Python 2's names, chumpy leaves, a csc regressor and an unsigned
kinematic table: the layout that smplx's `tools/clean_ch.py` and `SMPL.__init__` read.
"""

from __future__ import annotations

import builtins
import importlib
import operator
import os
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from common.reading.array_files import read_arrays, restricted_load, restricted_npz


class Ch:
    """The pickled attributes of chumpy's leaf: an array `x` and bookkeeping."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x
        self._dirty_vars = {"x"}
        self._itr = None
        self._depends_on_deps = {}


class Select:
    def __init__(self, a: Ch, idxs: np.ndarray, preferred_shape: tuple[int, ...]) -> None:
        self.a, self.idxs, self.preferred_shape = a, idxs, preferred_shape


@pytest.fixture
def chumpy() -> Iterator[None]:
    """Registers the classes above under chumpy's names, so that they can be pickled."""
    modules = {name: types.ModuleType(name) for name in ("chumpy", "chumpy.ch", "chumpy.reordering")}
    for module, kind in (("chumpy.ch", Ch), ("chumpy.reordering", Select)):
        kind.__module__ = module
        setattr(modules[module], kind.__name__, kind)
    sys.modules.update(modules)
    yield
    for name in modules:
        del sys.modules[name]


def as_python2(pickled: bytes) -> bytes:
    """The pickle with the names that Python 2 and numpy 1 used."""
    for new, old in (
        (b"numpy._core.multiarray", b"numpy.core.multiarray"),
        (b"scipy.sparse._csc", b"scipy.sparse.csc"),
        (b"cbuiltins\n", b"c__builtin__\n"),
        (b"ccopyreg\n", b"ccopy_reg\n"),
    ):
        pickled = pickled.replace(new, old)
    return pickled


def python2_array() -> bytes:
    """The int32 array [1, 2, 200] as Python 2 pickles it: its bytes are a string, decoded as latin1."""
    data = np.array([1, 2, 200], "<i4").tobytes()
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I3\nt"
        b"cnumpy\ndtype\n(S'i4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\n"
        b"S" + repr(data)[1:].encode("ascii") + b"\ntb"
    )


@pytest.mark.usefixtures("chumpy")
def test_official_layout_is_read_dense(tmp_path: Path) -> None:
    template = np.arange(12.0).reshape(4, 3)
    regressor = scipy.sparse.csc_matrix(np.array([[0.5, 0.5, 0, 0], [0, 0, 0.25, 0.75]]))
    content = {
        "v_template": Ch(template),
        "shapedirs": Select(Ch(np.arange(24.0)), np.arange(23, 11, -1), (4, 3, 1)),
        "J_regressor": regressor,
        "kintree_table": np.array([[4294967295, 0], [0, 1]], dtype=np.uint32),
        "f": np.asfortranarray(np.array([[0, 1, 2], [1, 2, 3]], dtype=">u4")),
        "bs_style": "lbs",
        "pose_training_info": {"count": np.int64(3), "names": ["a", None]},
    }
    path = tmp_path / "SMPL_NEUTRAL.pkl"
    path.write_bytes(as_python2(pickle.dumps(content, protocol=2)))
    del sys.modules["chumpy.ch"]  # chumpy is not installed where the file is read
    sys.modules["chumpy.ch"] = types.ModuleType("chumpy.ch")

    loaded = restricted_load(path)

    np.testing.assert_array_equal(loaded["v_template"], template)
    np.testing.assert_array_equal(loaded["shapedirs"].ravel(), np.arange(23.0, 11.0, -1))
    np.testing.assert_array_equal(loaded["J_regressor"], regressor.toarray())
    assert loaded["kintree_table"][0, 0] == 4294967295
    np.testing.assert_array_equal(loaded["f"], [[0, 1, 2], [1, 2, 3]])
    assert loaded["bs_style"] == "lbs"
    assert loaded["pose_training_info"] == {"count": 3, "names": ["a", None]}


def test_text_bytes_of_python2(tmp_path: Path) -> None:
    path = tmp_path / "old.pkl"
    path.write_bytes(b"(dS'poses'\n" + python2_array() + b"s.")
    np.testing.assert_array_equal(restricted_load(path)["poses"], [1, 2, 200])


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_every_protocol_gives_the_same_arrays(tmp_path: Path, protocol: int) -> None:
    content = {
        "poses": [np.ones((2, 72), np.float32)],
        "genders": ["m"],
        "sparse": scipy.sparse.csr_matrix(np.eye(2)),
    }
    path = tmp_path / "sequence.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    loaded = restricted_load(path)
    np.testing.assert_array_equal(loaded["poses"][0], np.ones((2, 72)))
    np.testing.assert_array_equal(loaded["sparse"], np.eye(2))
    assert loaded["genders"] == ["m"]


PLAIN = np.arange(24.0).reshape(2, 3, 4)
SPARSE = np.array([[0.0, 2.0, 0.0], [3.0, 0.0, 4.0]])
WRITTEN = {
    "rows": (PLAIN, PLAIN),
    "columns": (np.asfortranarray(PLAIN), PLAIN),
    "turned axes": (PLAIN.transpose(1, 2, 0), PLAIN.transpose(1, 2, 0)),
    "every other": (PLAIN[:, ::2], PLAIN[:, ::2]),
    "read only": (np.frombuffer(b"1234", np.uint8), np.array([49, 50, 51, 52])),
    "big-endian": (np.arange(3, dtype=">i4"), np.arange(3)),
    "words": (np.array(["a", "bc"]), np.array(["a", "bc"])),
    "number": (np.float64(3), np.array(3.0)),
    "matrix": (SPARSE.view(np.matrix), SPARSE),
    **{
        f"{kind}_{wrapper}": (getattr(scipy.sparse, f"{kind}_{wrapper}")(SPARSE), SPARSE)
        for kind in ("coo", "csc", "csr")
        for wrapper in ("matrix", "array")
    },
}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_arrays_of_every_protocol(tmp_path: Path, protocol: int, name: str) -> None:
    written, expected = WRITTEN[name]
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps(OrderedDict(x=written, inner=OrderedDict(y=[written])), protocol=protocol))
    loaded = restricted_load(path)
    assert (list(loaded), type(loaded["inner"])) == (["x", "inner"], dict)
    for value in (loaded["x"], loaded["inner"]["y"][0]):
        assert type(value) is np.ndarray
        np.testing.assert_array_equal(value, expected)


def test_attributes_of_older_scipy(tmp_path: Path) -> None:
    """Before scipy 1.13 a coo matrix had `row` and `col`."""
    matrix = scipy.sparse.coo_matrix(SPARSE)
    attributes = vars(matrix)
    row, col = attributes.pop("coords")
    attributes.update(row=row, col=col)
    loaded = restricted_load(_written(tmp_path / "old.pkl", {"x": matrix}))
    np.testing.assert_array_equal(loaded["x"], SPARSE)


class Calls:
    """Pickles into a call of `function`."""

    def __init__(self, function: object, *args: object) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.function, self.args


@pytest.mark.parametrize(
    ("function", "argument", "refused"),
    [
        (os.system, "touch {}", "system"),
        (builtins.eval, "open({!r}, 'w')", "eval"),
        (builtins.getattr, "{}", "getattr"),
        (np.frombuffer, "{}", "frombuffer"),
        (np.matrix, "{}", "not a pickle of plain arrays"),
        (np.save, "{}", "numpy.save"),
        (np.load, "{}", "numpy.load"),
        (operator.attrgetter, "{}", "attrgetter"),
        (importlib.import_module, "{}", "import_module"),
    ],
)
def test_a_function_in_a_pickle_is_named_and_never_called(
    tmp_path: Path, function: object, argument: str, refused: str
) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / "hostile.pkl"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        content = OrderedDict(v_template=Calls(function, argument.format(str(trace))))
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        with pytest.raises(ValueError, match=refused):
            restricted_load(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "body",
    [
        b"ccopy_reg\n_reconstructor\n(c__builtin__\nset\nc__builtin__\nobject\nNtR",  # not a stub
        b"cnumpy\nndarray\n(I1\ntS'O'\n\x86R",  # the constructor, with dtype object
        b"cnumpy\nndarray\n}S'array'\nNsb",  # sets an attribute of the class
        b"c_codecs\nencode\n}S'x'\nI1\nsb",  # or of an allowed function
        b"ccollections\nOrderedDict\n}S'get'\nNsb",  # sets an attribute of the class
        b"ccollections\nOrderedDict\n)R}S'get'\nNsb",  # or of an instance
        b"ccollections\nOrderedDict\n(I3\ntR",
        b"cnumpy\nmatrix\n(I1\ntR",  # no state
        b"cnumpy.core.numeric\n_frombuffer\n(S'aaaaaaaa'\ncnumpy\ndtype\n(S'O8'\nI0\nI1\ntR(I1\ntS'C'\ntR",
        b"cnumpy.core.numeric\n_frombuffer\n(S'aaaaaaaa'\ncnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I9\ntS'C'\ntR",
        b"cnumpy.core.numeric\n_frombuffer\n(c__builtin__\nset\ncnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I1\ntS'C'\ntR",
        b"cscipy.sparse.coo\ncoo_matrix\n(I3\ntR",  # no state
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\nI0\nI1\ntRS'aaaaaaaa'\ntR",
    ],
    ids=[
        "reconstructor",
        "constructor",
        "class",
        "function",
        "ordered-class",
        "ordered-instance",
        "ordered-number",
        "matrix",
        "buffer-of-objects",
        "buffer-too-short",
        "buffer-of-a-class",
        "coo",
        "objects-of-bytes",
    ],
)
def test_allowed_names_cannot_be_misused(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "misused.pkl"
    path.write_bytes(b"(dS'x'\n" + body + b"s.")
    with pytest.raises(ValueError, match="not a pickle of plain arrays"):
        restricted_load(path)
    np.testing.assert_array_equal(
        restricted_load(_written(tmp_path / "ok.pkl", {"x": np.eye(2)}))["x"], np.eye(2)
    )


def test_sparse_indices_outside_the_matrix_are_refused(tmp_path: Path) -> None:
    csc, coo = scipy.sparse.csc_matrix(np.eye(3)), scipy.sparse.coo_matrix(np.eye(3))
    csc.indices[0] = coo.coords[1][0] = 1_000_000
    for matrix in (csc, coo):
        with pytest.raises(ValueError, match="not a pickle of plain arrays"):
            restricted_load(_written(tmp_path / "outside.pkl", {"J_regressor": matrix}))


def _written(path: Path, content: object) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps({"x": 1})[:-3]])
def test_damaged_pickle(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a pickle of plain arrays"):
        restricted_load(path)


def test_pickle_of_a_list(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds a list, not a dictionary"):
        restricted_load(_written(tmp_path / "list.pkl", [1, 2]))


def test_missing_arrays_are_named_beside_the_found(tmp_path: Path) -> None:
    for path in (tmp_path / "part.npz", tmp_path / "part.pkl"):
        if path.suffix == ".npz":
            np.savez(path, f=np.eye(3), v_template=np.eye(3))
        else:
            _written(path, {"f": np.eye(3), "v_template": np.eye(3)})
        with pytest.raises(ValueError, match=r"lacks weights, shapedirs; it holds f, v_template"):
            read_arrays(path, ["f", "weights", "shapedirs"])


def test_only_named_arrays_of_an_npz_are_read(tmp_path: Path) -> None:
    """Official SMPL-X files carry object arrays, such as their part names, beside the model."""
    path = tmp_path / "SMPLX_NEUTRAL.npz"
    np.savez(path, f=np.eye(3), joint2num=np.array({"Pelvis": 0}, dtype=object))
    assert list(read_arrays(path, ["f"])) == ["f"]
    with pytest.raises(ValueError, match="joint2num is not made of plain arrays: it has the type object"):
        read_arrays(path, ["joint2num"])


@pytest.mark.parametrize("content", [b"", b"no zip archive at all"])
def test_damaged_npz(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.npz"):
        read_arrays(path, ["f"])


def test_suffixes_in_capitals(tmp_path: Path) -> None:
    np.savez(tmp_path / "body.npz", f=np.eye(3))
    (tmp_path / "body.npz").rename(tmp_path / "BODY.NPZ")
    _written(tmp_path / "BODY.PKL", {"f": np.eye(3)})
    for name in ("BODY.NPZ", "BODY.PKL"):
        np.testing.assert_array_equal(read_arrays(tmp_path / name, ["f"])["f"], np.eye(3))


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file of arrays at"):
        read_arrays(tmp_path / "absent.npz", ["f"])
    (tmp_path / "body.obj").touch()
    with pytest.raises(ValueError, match=r"an \.npz or a \.pkl file, not from body\.obj"):
        read_arrays(tmp_path / "body.obj", ["f"])


def test_object_arrays_of_an_npz_are_unpacked(tmp_path: Path) -> None:
    """mmhuman3d's HumanData contains pickled dictionaries, BEDLAM lists of names."""
    path = tmp_path / "human_data.npz"
    fit = {"betas": np.eye(2), "global_orient": np.asfortranarray(np.arange(6.0).reshape(2, 3))}
    np.savez_compressed(
        path,
        smpl=np.array(fit, dtype=object),
        names=np.array(["a.jpg", "b.jpg"], dtype=object),
        columns=np.asfortranarray(np.arange(6).reshape(2, 3)),
        unread=np.array(Calls(os.system, f"touch {tmp_path / 'trace'}"), dtype=object),
    )
    members = restricted_npz(path, ["smpl", "columns"], optional=["names", "absent"])
    assert sorted(members) == ["columns", "names", "smpl"]
    np.testing.assert_array_equal(members["smpl"]["global_orient"], fit["global_orient"])
    np.testing.assert_array_equal(members["columns"], [[0, 1, 2], [3, 4, 5]])
    assert members["names"] == ["a.jpg", "b.jpg"]
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("wrap", [lambda hostile: hostile, lambda hostile: {"betas": [hostile]}])
def test_a_function_in_an_npz_is_never_called(tmp_path: Path, wrap: Callable[[object], object]) -> None:
    path, trace = tmp_path / "hostile.npz", tmp_path / "trace"
    np.savez(path, smpl=np.array(wrap(Calls(os.system, f"touch {trace}")), dtype=object))
    with pytest.raises(ValueError, match=r"smpl is not made of plain arrays: it asks for .*system"):
        restricted_npz(path, ["smpl"])
    assert not trace.exists()


def test_arrays_of_objects_in_a_pickle(tmp_path: Path) -> None:
    nested = np.empty((2, 2), dtype=object)
    ragged = np.array([np.eye(2), "m"], dtype=object)
    loaded = restricted_load(_written(tmp_path / "ok.pkl", {"x": ragged}))
    np.testing.assert_array_equal(loaded["x"][0], np.eye(2))
    assert loaded["x"][1] == "m"
    with pytest.raises(ValueError, match=r"an array of objects of shape \(2, 2\) is refused"):
        restricted_load(_written(tmp_path / "nested.pkl", {"x": nested}))


def test_npz_without_the_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", poses=np.eye(3))
    with pytest.raises(ValueError, match=r"other.npz lacks smpl; it holds poses"):
        restricted_npz(tmp_path / "other.npz", ["smpl"])
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match="is not an npz archive"):
        restricted_npz(tmp_path / "text.npz", ["smpl"])
    with pytest.raises(FileNotFoundError, match="no npz file at"):
        restricted_npz(tmp_path / "absent.npz", ["smpl"])
