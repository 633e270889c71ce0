"""Copies of a model that share everything with it but the tree of its modules"""

import copy
import functools
import types
from collections import OrderedDict
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["Model", "module_copies", "shared_copy"]

Model = TypeVar("Model", bound=nn.Module)

_TABLES = tuple(name for name, value in vars(nn.Module()).items() if isinstance(value, (dict, set)))
_OPAQUE = (torch.jit.ScriptModule, torch.fx.GraphModule)  # keep their code or their state outside of the attributes


def shared_copy(model: Model, frozen: bool = False) -> Model:
    """A copy of the module tree alone: parameters, buffers and whatever else the modules hold are shared.

    It costs next to no memory, and copies nothing that cannot be copied, such as locks and tensors inside a graph.
    """
    copied: Any = module_copies(model, frozen)[id(model)]
    return copied


def module_copies(model: nn.Module, frozen: bool = False) -> dict[int, nn.Module]:
    """`shared_copy` of every module in the tree, by the `id` of the original.

    Tables of hooks are copied, so that a hook on a copy stays there. References from one module of the tree to another,
    such as lists of modules and bound methods, lead to the copies. A compiled module gives that of the plain one.
    """
    return _TreeCopy(model, frozen).copies


class _TreeCopy:
    def __init__(self, model: nn.Module, frozen: bool) -> None:
        self.frozen = frozen
        self.copies: dict[int, nn.Module] = {}
        self.tensors: dict[int, Tensor] = {}  # of frozen parameters: shared ones stay shared
        self.pairs: list[tuple[nn.Module, nn.Module]] = []
        self._grow(model)
        for module, new in self.pairs:
            self._fill(module, new)

    def _grow(self, module: nn.Module) -> nn.Module:
        if id(module) in self.copies:
            return self.copies[id(module)]
        if isinstance(module, _OPAQUE):
            new: nn.Module = copy.deepcopy(module, self._memo(module))
            if self.frozen:  # what a script holds is no parameter that the memo could replace
                for parameter in new.parameters():
                    parameter.detach_()
            twins = dict(new.named_modules())
            self.copies |= {id(child): twins[name] for name, child in module.named_modules()}
            return new
        if "_orig_mod" in module._modules:  # compiled, for the original: a copy would have to be compiled anew
            inner: Any = module._modules["_orig_mod"]
            self.copies[id(module)] = self._grow(inner)
            return self.copies[id(module)]
        new = self.copies[id(module)] = object.__new__(type(module))
        self.pairs.append((module, new))
        for child in module._modules.values():
            if child is not None:
                self._grow(child)
        return new

    def _fill(self, module: nn.Module, new: nn.Module) -> None:
        state = dict(vars(module))
        state["_compiled_call_impl"] = None  # that of `module.compile()` calls the original
        children = {name: None if child is None else self.copies[id(child)] for name, child in module._modules.items()}
        parameters = {name: self._parameter(p) for name, p in module._parameters.items()}
        for name, value in state.items():
            own = copy.copy(value) if name in _TABLES else value
            state[name] = own if name in ("_modules", "_parameters", "_buffers") else self._redirected(own, ())
        state["_modules"].update(children)
        state["_parameters"].update(parameters)
        vars(new).update(state)

    def _parameter(self, parameter: Any) -> Any:
        if parameter is None or not self.frozen:
            return parameter
        if id(parameter) not in self.tensors:
            self.tensors[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
        return self.tensors[id(parameter)]

    def _memo(self, module: nn.Module) -> dict[int, Any]:
        """For `deepcopy`: tensors that stay as they are."""
        plain = (value for one in module.modules() for value in vars(one).values() if isinstance(value, Tensor))
        memo: dict[int, Any] = {id(t): t.detach() if self.frozen else t for t in chain(module.buffers(), plain)}
        return memo | {id(p): self._parameter(p) for p in module.parameters()}

    def _redirected(self, value: Any, around: tuple[int, ...]) -> Any:
        """The value itself, or where it leads to modules of the tree one that leads to their copies."""
        if isinstance(value, nn.Module):
            return self.copies.get(id(value), value)
        if isinstance(value, Tensor):
            return value.detach() if self.frozen and value.requires_grad else value
        if isinstance(value, types.MethodType):
            owner = self.copies.get(id(value.__self__))
            return value if owner is None else types.MethodType(value.__func__, owner)
        if id(value) in around:  # a container that holds itself
            return value
        around = (*around, id(value))
        if isinstance(value, functools.partial):
            parts = (value.func, value.args, value.keywords)
            func, args, keywords = found = tuple(self._redirected(part, around) for part in parts)
            return functools.partial(func, *args, **keywords) if _differ(parts, found) else value
        if type(value) in (list, tuple):
            found = tuple(self._redirected(entry, around) for entry in value)
            return type(value)(found) if _differ(value, found) else value
        if type(value) in (dict, OrderedDict):
            found = tuple(self._redirected(entry, around) for entry in value.values())
            return type(value)(zip(value, found, strict=True)) if _differ(value.values(), found) else value
        return value


def _differ(old: Any, new: Any) -> bool:
    return any(a is not b for a, b in zip(old, new, strict=True))
