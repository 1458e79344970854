"""A device that is not there, with data: what follows its policy can be run to its numbers without an accelerator.

Tensors say that they lie on `meta` and keep their numbers behind it, on the CPU, so that the same operations give the
same bits. Like CUDA's they meet no tensor of the CPU in an operation, but for a number, an index and a copy, and have
no `.numpy()`. Inside `elsewhere()`, in the thread that entered it, whatever is made on that device or moved there is of
this kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = ["ELSEWHERE", "elsewhere"]

ELSEWHERE = torch.device("meta")
aten = torch.ops.aten
CROSSING = {  # operations that take tensors of both places
    aten.copy_.default, aten.index.Tensor, aten.index_put_.default, aten.index_put.default,
    aten._index_put_impl_.default,
}  # fmt: skip


class _Tensor(torch.Tensor):
    data_here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> _Tensor:
        return torch.Tensor._make_wrapper_subclass(
            cls, here.shape, here.stride(), here.storage_offset(), dtype=here.dtype, device=ELSEWHERE
        )

    def __init__(self, here: torch.Tensor) -> None:
        self.data_here = here

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})


class _Made(TorchDispatchMode):
    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})


class _MadeOfNumbers(TorchFunctionMode):
    """What torch makes of Python's numbers it makes below all dispatch, where `meta` forgets them."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.tensor and kwargs.get("device") == ELSEWHERE:
            return function(*args, **{**kwargs, "device": "cpu"}).to(ELSEWHERE)
        if args and isinstance(args[0], _Tensor):
            if function is torch.Tensor.new_tensor:
                return function(args[0].data_here, *args[1:], **kwargs).to(ELSEWHERE)
            if function is torch.Tensor.tolist:
                return args[0].data_here.tolist()
            if function is torch.Tensor.__getitem__:
                places = args[1] if isinstance(args[1], tuple) else (args[1],)
                args = (
                    args[0],
                    tuple(torch.tensor(place) if isinstance(place, list) else place for place in places),
                )
        return function(*args, **kwargs)


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    with _Made(), _MadeOfNumbers():
        yield ELSEWHERE


def _run(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = any(isinstance(tensor, _Tensor) for tensor in tensors)
    here = [tensor for tensor in tensors if not isinstance(tensor, _Tensor) and tensor.ndim]
    assert not any(tensor.device == ELSEWHERE for tensor in here), f"{op} of a tensor without its data"
    if there and here and op not in CROSSING:
        raise RuntimeError(f"{op} of tensors on two devices, cpu and {ELSEWHERE}")
    to = kwargs.get("device")
    if to is not None:
        there = torch.device(to) == ELSEWHERE
        kwargs = {**kwargs, "device": "cpu"}
    elif there and op is aten._local_scalar_dense.default:
        there = False
    args, kwargs = tree_map_only(_Tensor, lambda tensor: tensor.data_here, (args, kwargs))
    with torch.no_grad():
        answer = op(*args, **kwargs)
    return tree_map_only(torch.Tensor, _Tensor, answer) if there else answer
