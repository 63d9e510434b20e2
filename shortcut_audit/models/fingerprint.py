"""A hash over Python values and the code behind them, the same in every process."""

from __future__ import annotations

import copyreg
import hashlib
import logging
import sysconfig
import threading
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from types import (
    BuiltinMethodType,
    ClassMethodDescriptorType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Fingerprint"]

# Packages whose versions are part of every shard's key: their names say enough.
_VERSIONED = {"torch", "timm", "torchvision", "builtins"}
_PLACES = ("stdlib", "platstdlib", "purelib", "platlib")
_INSTALLED = tuple(sorted({sysconfig.get_path(name) for name in _PLACES}))
_SCALARS = (
    *(str, bytes, int, float, complex, type(None), range, slice, np.generic),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
# Parts of compiled classes: their names say as much as can be known.
_COMPILED = (
    *(ClassMethodDescriptorType, GetSetDescriptorType, MemberDescriptorType),
    *(MethodDescriptorType, MethodWrapperType, WrapperDescriptorType),
)
_IS_MADE_BY_A_CLASS_STATEMENT = 1 << 9  # Py_TPFLAGS_HEAPTYPE; some compiled classes have it too
# Objects that decide no answer, whatever state they are in.
_IDLE = (logging.Logger, type(threading.Lock()), type(threading.RLock()))


@dataclass
class Fingerprint:
    """Takes values one after the other; objects of unknown kinds count by their class and attributes.

    Functions and classes count by their compiled code (comments and line numbers do not), and the
    user's own also by the functions, classes and constants that this code names.

    `modules`: the torch modules met on the way, whose weights are the caller's to take. `opaque`:
    the class of an object whose state lies in compiled code and cannot be had, or "".
    """

    state: Any = field(default_factory=hashlib.sha256)
    known: dict[int, tuple[int, Any]] = field(default_factory=dict)
    modules: list[nn.Module] = field(default_factory=list)
    opaque: str = ""

    def digest(self) -> str:
        """Of all that was taken so far, in hexadecimal."""
        return str(self.state.hexdigest())

    def text(self, value: str) -> None:
        """Take a text."""
        self.state.update(value.encode("utf-8", "surrogatepass"))
        self.state.update(b"\0")

    def value(self, value: Any, name: str = "") -> None:
        """Take any value under a name."""
        self.text(f"{name} {_name_of(type(value))}")
        if isinstance(value, Enum):
            self.text(value.name)
        elif isinstance(value, _SCALARS):
            self.text(repr(value))
        elif isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, np.ndarray):
            self.text(f"{value.dtype} {value.shape}")
            if value.dtype.hasobject:
                self.value(value.ravel().tolist())
            else:
                self.state.update(value.tobytes())
        elif isinstance(value, list | tuple):
            self.text(str(len(value)))
            for item in value:
                self.value(item)
        elif isinstance(value, Mapping):
            for key in sorted(value, key=repr):
                self.value(value[key], repr(key))
        elif isinstance(value, Set):
            self.text(repr(sorted(map(repr, value))))
        elif isinstance(value, nn.Module):
            if not any(value is module for module in self.modules):
                self.modules.append(value)
        elif not isinstance(value, _IDLE):
            self._reference(value)

    def _tensor(self, value: Tensor) -> None:
        self.text(f"{value.dtype} {tuple(value.shape)}")
        flat = value.detach().cpu().contiguous().reshape(-1)
        self.state.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")

    def _reference(self, value: Any) -> None:
        """Take a function, class or record, which may lead back to itself."""
        if id(value) in self.known:
            self.text(f"number {self.known[id(value)][0]}")
            return
        # The value itself is kept, so that its id stays its own.
        self.known[id(value)] = (len(self.known), value)
        if isinstance(value, FunctionType):
            self._function(value)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, MethodType):
            self.value([value.__func__, value.__self__])
        elif isinstance(value, staticmethod | classmethod):
            self.value(value.__func__)
        elif isinstance(value, property):
            self.value(value.fget)
        elif isinstance(value, partial):
            self.value([value.func, value.args, value.keywords])
        elif isinstance(value, ModuleType) or callable(getattr(value, "__self__", None)):
            self.text(str(getattr(value, "__name__", "")))
        elif isinstance(value, _COMPILED):
            self.text(value.__qualname__)
        elif isinstance(value, BuiltinMethodType):
            self.value(value.__self__, value.__qualname__)
        else:
            self._object(value)

    def _object(self, value: Any) -> None:
        kind = type(value)
        self.text(str(getattr(value, "__qualname__", getattr(value, "__name__", ""))))
        self._reference(kind)
        self.value(dict(getattr(value, "__dict__", {})))
        slots = [n for base in kind.__mro__ for n in getattr(base, "__slots__", ())]
        self.value({name: getattr(value, name) for name in slots if hasattr(value, name)})
        if not _has_hidden_state(kind):
            return
        try:
            reduce = copyreg.dispatch_table.get(kind)
            parts = reduce(value) if reduce is not None else value.__reduce_ex__(4)
            # Of five parts, the last two are iterators over a list's or a dictionary's items.
            rest = [] if isinstance(parts, str) else [list(part or ()) for part in parts[3:5]]
            self.value([parts] if isinstance(parts, str) else [*parts[:3], *rest])
        except Exception:  # an object says in ways of its own that it cannot be copied
            self.opaque = self.opaque or f"{kind.__module__}.{kind.__qualname__}"

    def _class(self, kind: type) -> None:
        for base in kind.__mro__:
            self.text(_name_of(base))
            if _package(base) in _VERSIONED or not base.__flags__ & _IS_MADE_BY_A_CLASS_STATEMENT:
                continue
            for name, value in sorted(vars(base).items()):
                if not name.startswith("__") or isinstance(value, FunctionType):
                    self.value(value, name)

    def _function(self, function: FunctionType) -> None:
        self.text(_name_of(function))
        for cell in function.__closure__ or ():
            try:
                self.value(cell.cell_contents)
            except ValueError:  # not filled yet
                continue
        if _package(function) in _VERSIONED:
            return
        code = function.__code__
        self._code(code)
        self.value([function.__defaults__, function.__kwdefaults__])
        if code.co_filename.startswith(_INSTALLED):
            return
        names = _names_in(code)
        for name in sorted(names & set(function.__globals__)):
            self._named(function.__globals__[name], name, names, ())

    def _named(self, value: Any, name: str, names: set[str], outer: tuple[ModuleType, ...]) -> None:
        """Take a global that code names, and of the user's own modules what it names in there."""
        self.value(value, name)
        if isinstance(value, ModuleType) and value not in outer and not _is_installed(value):
            for inner in sorted(names & set(vars(value))):
                self._named(vars(value)[inner], inner, names, (*outer, value))

    def _code(self, code: CodeType) -> None:
        self.text(f"{code.co_code.hex()} {code.co_names}")
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._code(constant)
            else:
                self.value(constant)


def _names_in(code: CodeType) -> set[str]:
    """Names of globals and attributes that code mentions, in nested functions too."""
    inner = [_names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def _has_hidden_state(kind: type) -> bool:
    """Whether objects of a class are larger than their attributes and slots: it is compiled code
    that holds the rest. (By the same sum, Python's own pickle knows what it would lose.)"""
    n_slots = sum(
        isinstance(value, MemberDescriptorType) for base in kind.__mro__ for value in vars(base).values()
    )
    pointers = n_slots + (getattr(kind, "__dictoffset__", 0) > 0) + (kind.__weakrefoffset__ > 0)
    size_of_pointer = tuple.__itemsize__
    return kind.__itemsize__ > 0 or kind.__basicsize__ > object.__basicsize__ + size_of_pointer * pointers


def _package(value: type | FunctionType) -> str:
    return str(value.__module__ or "").split(".")[0]


def _is_installed(module: ModuleType) -> bool:
    return str(getattr(module, "__file__", None) or _INSTALLED[0]).startswith(_INSTALLED)


def _name_of(value: type | FunctionType) -> str:
    # A user's own module is named after the file it lies in, which says nothing about its content.
    module = value.__module__ if _package(value) in _VERSIONED else ""
    return f"{module}.{value.__qualname__}"
