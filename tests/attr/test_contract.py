"""The pieces that all attributions share: targets as Captum takes them, copies of a module tree, progress."""

import functools
import sys
import threading

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from torch import nn

from timm_interpretable.attr import RISE
from timm_interpretable.attr.contract import class_indices, evaluation_view, progress_bar
from timm_interpretable.models.sharing import module_copies, shared_copy

# Targets


@pytest.fixture
def weights(rng):
    return torch.randn(5, 4, generator=rng)


def captums_choice(weights, target, batch):
    """Which class Captum takes: the gradient of a linear model is the row of the class."""
    x = torch.ones(batch, 4, requires_grad=True)
    gradients = Saliency(lambda x: x @ weights.T).attribute(x, target=target, abs=False)
    return [int((weights == row).all(1).nonzero()) for row in gradients]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "form",
    [
        lambda b: 3,
        lambda b: (3,),
        lambda b: torch.tensor(3),
        lambda b: torch.tensor([3]),
        lambda b: torch.tensor([[3]]),
        lambda b: torch.tensor([3], dtype=torch.int32),
        lambda b: torch.tensor([4, 0, 2][:b]),
        lambda b: [4, 0, 2][:b],
        lambda b: [(4,), (0,), (2,)][:b],
    ],
)  # fmt: skip
def test_every_form_selects_what_captum_selects(weights, form, batch):
    found = class_indices(form(batch), batch, 5)
    assert found.tolist() == captums_choice(weights, form(batch), batch)
    assert found.dtype == torch.long


@pytest.mark.parametrize(
    "target",
    [
        [1, 2], [], [1, 2, 3, 4], (1, 2), (), torch.tensor([1, 2]), torch.ones(3, 1, dtype=torch.long),
        torch.tensor([1.0, 2.0, 0.0]), torch.tensor([], dtype=torch.long), [(1, 2), (1,), (1,)], [(1,), 1, (1,)],
        [1, (1,), 1], "cat", ["cat"] * 3, 1.0, [1.0] * 3, {1}, torch.tensor(1.0),
    ],
)  # fmt: skip
def test_what_captum_refuses_is_refused(weights, target):
    with pytest.raises((AssertionError, IndexError, RuntimeError, TypeError, ValueError)):
        captums_choice(weights, target, 3)
    with pytest.raises(AssertionError, match="expected"):
        class_indices(target, 3, 5)


@pytest.mark.parametrize("target", [True, [True, False], torch.tensor([True, False]), np.int64(3)])
def test_what_is_no_int_is_no_class(target):
    with pytest.raises(AssertionError, match="is not valid, expected class indices"):
        class_indices(target, 2, 5)


def test_no_target_and_no_classes():
    assert class_indices(None, 2, 1).tolist() == [0, 0]
    with pytest.raises(AssertionError, match="Target not provided when necessary: the model has 5 classes"):
        class_indices(None, 2, 5)
    with pytest.raises(ValueError, match="num_classes=0 and nothing to attribute"):
        class_indices(0, 2, 0)


# Copies of a module tree


class Branches(nn.Module):
    """Modules that know of each other in every way that a deep copy would follow."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.tied = nn.Conv2d(3, 3, 1)
        self.tied.weight = self.conv.weight
        self.steps = [self.norm, (self.conv, {"last": self.tied})]
        self.run = self.in_order
        self.also = functools.partial(self.apply_one, self.norm)
        self.scale = torch.ones(1, requires_grad=True) * 2  # neither leaf nor parameter: cannot be deep-copied
        self.kept = {"earlier": self.scale}
        self.lock = threading.Lock()
        self.seen = []
        self.itself = [self]
        self.itself.append(self.itself)

    def in_order(self, x):
        first, (second, third) = self.steps
        return third["last"](second(first(x)))

    def apply_one(self, module, x):
        self.seen.append(module.training)
        return module(x)

    def forward(self, x):
        with self.lock:
            return self.scale * self.also(self.run(x))


def test_only_the_modules_are_copied():
    model = Branches().train()
    copied = shared_copy(model)
    assert type(copied) is Branches
    for name, parameter in model.named_parameters():
        assert copied.get_parameter(name) is parameter
    for name, buffer in model.named_buffers():
        assert copied.get_buffer(name) is buffer
    assert copied.lock is model.lock
    assert copied.scale is model.scale
    assert copied.kept is model.kept
    assert not {id(module) for module in model.modules()} & {id(module) for module in copied.modules()}
    assert copied.itself[0] is copied


def test_references_between_modules_lead_to_the_copies(rng):
    model, x = Branches().train(), torch.rand(4, 3, 5, 5, generator=rng)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    result = evaluation_view(model)(x)
    assert model.seen == [False]
    torch.testing.assert_close(dict(model.named_buffers()), before, rtol=0, atol=0)
    assert all(module.training for module in model.modules())
    torch.testing.assert_close(result, model.eval()(x))


def test_frozen_copies_keep_ties_and_take_no_gradient(rng):
    model = Branches().eval()
    frozen = evaluation_view(model, frozen=True)
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert frozen.tied.weight is frozen.conv.weight
    assert frozen.conv.weight.data_ptr() == model.conv.weight.data_ptr()
    x = torch.rand(1, 3, 5, 5, generator=rng)
    assert not frozen(x).requires_grad
    torch.testing.assert_close(frozen(x), model(x))
    assert evaluation_view(model) is model


def test_a_hook_on_a_copy_stays_there(rng):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    fired = []
    model[0].register_forward_hook(lambda *args: fired.append("original"))
    copies = module_copies(model)
    copies[id(model[0])].register_forward_hook(lambda *args: fired.append("copy"))
    copies[id(model[1])].register_forward_pre_hook(lambda *args: fired.append("before"))
    x = torch.rand(1, 3, 5, 5, generator=rng)
    model(x)
    assert fired == ["original"]
    copies[id(model)](x)
    assert fired == ["original", "original", "copy", "before"]


class Inner(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def compiled_in_place(module):
    module.compile(backend="eager")
    return module


@pytest.mark.parametrize(
    "wrap",
    [
        lambda module: torch.compile(module, backend="eager"),
        compiled_in_place,
        torch.jit.script,
        torch.fx.symbolic_trace,
        lambda module: nn.utils.parametrizations.weight_norm(module[1]) and module,
    ],
    ids=["torch.compile", "module.compile", "script", "fx", "parametrization"],
)
def test_parts_of_other_kinds(rng, wrap):
    """In training mode they would move the statistics of the norm."""
    model = Inner(wrap(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)))).train()
    x = torch.rand(4, 3, 5, 5, generator=rng)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    results = [evaluation_view(model, frozen)(x) for frozen in (False, True)]
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert all(module.training for module in model.modules())
    model.eval()
    for result in results:
        torch.testing.assert_close(result, model(x))
    assert not results[1].requires_grad
    assert all(p.requires_grad for p in model.parameters())


# Progress


class Terminal:
    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("slow", [True, False])
@pytest.mark.parametrize("show", [None, True, False])
def test_a_bar_in_a_terminal_where_it_takes_long(monkeypatch, terminal, slow, show):
    out = Terminal()
    monkeypatch.setattr(out, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", out)
    with progress_bar(10, "RISE", show) as bar:
        assert out.text == "" or show
        for _ in range(10):
            if not bar.disable:  # as if time had passed
                bar.start_t -= 0.4 if slow else 0
                bar.last_print_t -= 0.4
            bar.update()
    shown = show if show is not None else terminal and slow
    assert ("RISE" in out.text and "10/10" in out.text) == shown


def test_a_quick_map_shows_no_bar_even_in_a_terminal(monkeypatch):
    out = Terminal()
    monkeypatch.setattr(sys, "stderr", out)
    RISE(lambda x: x.mean((1, 2, 3))).attribute(torch.ones(1, 1, 4, 4), n_samples=4)
    assert out.text == ""
    RISE(lambda x: x.mean((1, 2, 3))).attribute(torch.ones(1, 1, 4, 4), n_samples=4, show_progress=True)
    assert "4/4" in out.text
