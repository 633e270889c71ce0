"""What every registered model must do to live inside timm: the checks of timm's own model tests, and a few more.

Subclass `ModelContract` with a `name` fixture over the registered names. Random weights, small inputs, one seed.
"""

import copy
import pickle
from typing import Any, ClassVar

import pytest
import timm
import torch
from timm.models import (
    FeatureGraphNet,
    GraphExtractNet,
    get_arch_pretrained_cfgs,
    get_graph_node_names,
    group_parameters,
)
from torch import Tensor, nn
from torch.testing import assert_close


def images(size: int, batch: int = 2, channels: int = 3) -> Tensor:
    """Random images in [0, 1]; the same ones at every call."""
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


def create(name: str, **kwargs: Any) -> nn.Module:
    """A model with seeded random weights, in eval mode."""
    torch.manual_seed(0)
    return timm.create_model(name, **kwargs).eval()


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad()
    model(x).square().mean().backward()
    return {name: p.grad for name, p in model.named_parameters()}


def assert_same_gradients(a: dict[str, Tensor | None], b: dict[str, Tensor | None]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert_close(a[name], b[name], msg=lambda m, name=name: f"{name}: {m}")


class ModelContract:
    size: ClassVar[int] = 64  # side of the test images: any size the model takes
    num_classes: ClassVar[int] = 42
    min_levels: ClassVar[int] = 4
    early_stop_ends_at_the_feature: ClassVar[bool] = True  # some of timm's networks pool once more

    @pytest.fixture
    def name(self) -> str:
        raise NotImplementedError("a subclass names its models: a fixture with params")

    @pytest.fixture
    def model(self, name: str) -> nn.Module:
        return create(name, num_classes=self.num_classes)

    @pytest.fixture
    def x(self) -> Tensor:
        return images(self.size)

    # --- forward and backward

    def test_forward(self, model: nn.Module, x: Tensor) -> None:
        with torch.no_grad():
            y = model(x)
        assert y.shape == (2, self.num_classes)
        assert y.isfinite().all()
        assert_close(model.forward_head(model.forward_features(x)), y)

    def test_backward_reaches_every_parameter(self, model: nn.Module, x: Tensor) -> None:
        grads = gradients(model.train(), x)
        assert [name for name, g in grads.items() if g is None] == []
        assert all(g is not None and g.isfinite().all() for g in grads.values())

    def test_attributes(self, model: nn.Module) -> None:
        assert model.num_classes == self.num_classes
        assert model.num_features == model.head_hidden_size == model.feature_info[-1]["num_chs"]
        assert isinstance(model.get_classifier(), nn.Module)

    # --- the pretrained config

    def test_default_cfg(self, name: str) -> None:
        for tag in get_arch_pretrained_cfgs(name):
            model = create(tag, num_classes=self.num_classes, device="meta")  # shapes only: full input size for free
            cfg = model.pretrained_cfg
            x = torch.empty(2, *cfg["input_size"], device="meta")
            features = model.forward_features(x)
            assert features.shape[-2:] == torch.Size(cfg["pool_size"])
            assert model(x).shape == (2, self.num_classes)
            assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
            model.reset_classifier(0)
            assert model(x).shape == (2, model.num_features)
            model.reset_classifier(0, "")
            assert model(x).ndim == 4

    def test_default_cfg_names_exist(self, name: str) -> None:
        for tag in get_arch_pretrained_cfgs(name):
            model = create(tag, device="meta")
            weights = {key.removesuffix(".weight") for key in model.state_dict() if key.endswith(".weight")}
            for entry in ("classifier", "first_conv"):
                named = model.pretrained_cfg[entry]
                assert weights.issuperset([named] if isinstance(named, str) else named), entry

    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_in_chans(self, name: str, channels: int) -> None:
        model = create(name, num_classes=self.num_classes, in_chans=channels)
        assert model(images(self.size, channels=channels)).shape == (2, self.num_classes)

    def test_device_and_dtype(self, name: str) -> None:
        meta = create(name, device="meta")
        assert {p.device.type for p in meta.parameters()} == {"meta"}
        half = create(name, dtype=torch.bfloat16)
        assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
        logits = half(images(self.size).bfloat16())
        assert logits.dtype == torch.bfloat16
        assert logits.isfinite().all()

    @pytest.mark.parametrize("training", [False, True])
    def test_reset_classifier_keeps_device_dtype_and_mode(self, name: str, training: bool) -> None:
        model = create(name, device="meta", dtype=torch.float64).train(training)
        model.reset_classifier(0)
        model.reset_classifier(2)
        assert {p.device.type for p in model.parameters()} == {"meta"}
        assert {p.dtype for p in model.parameters()} == {torch.float64}
        assert {m.training for m in model.modules()} == {training}

    # --- features

    def test_features_only(self, name: str, x: Tensor) -> None:
        model = create(name, features_only=True)
        features = model(x)
        info = model.feature_info
        assert len(features) == len(info.channels()) >= self.min_levels
        for feature, channels, reduction in zip(features, info.channels(), info.reduction(), strict=True):
            assert feature.shape == (2, channels, self.size // reduction, self.size // reduction)
            assert feature.isfinite().all()

    def test_features_only_with_indices(self, name: str, x: Tensor) -> None:
        deepest = create(name, features_only=True)(x)[-1]
        assert_close(create(name, features_only=True, out_indices=(-1,))(x), [deepest])

    def test_features_only_torchscript(self, name: str, x: Tensor) -> None:
        model = create(name, features_only=True)
        with torch.no_grad():
            assert_close(torch.jit.script(model)(x), model(x))

    def test_forward_intermediates(self, model: nn.Module, x: Tensor) -> None:
        with torch.no_grad():
            final, intermediates = model.forward_intermediates(x)
            assert_close(final, model.forward_features(x))
            assert [f.shape[1] for f in intermediates] == [info["num_chs"] for info in model.feature_info]
            assert [self.size // f.shape[-1] for f in intermediates] == [i["reduction"] for i in model.feature_info]
            assert_close(model.forward_intermediates(x, intermediates_only=True), intermediates)
            assert_close(model.forward_intermediates(x, indices=2)[1], intermediates[-2:])
            for i, feature in enumerate(intermediates):
                early, picked = model.forward_intermediates(x, indices=[i], stop_early=True)
                assert_close(picked, [feature])
                if self.early_stop_ends_at_the_feature:
                    assert_close(early, feature)

    def test_prune_intermediate_layers(self, model: nn.Module, x: Tensor) -> None:
        wanted = model.forward_intermediates(x, indices=[1, 2], intermediates_only=True)
        before = sum(p.numel() for p in model.parameters())
        assert model.prune_intermediate_layers([1, 2]) == [1, 2]
        assert sum(p.numel() for p in model.parameters()) < before
        assert_close(model.forward_intermediates(x, indices=[1, 2], intermediates_only=True), wanted)
        assert model(x).ndim == 4

    # --- tracing and compiling

    def test_torchscript(self, model: nn.Module, x: Tensor) -> None:
        with torch.no_grad():
            assert_close(torch.jit.script(model)(x), model(x))

    def test_fx(self, model: nn.Module, x: Tensor) -> None:
        with torch.no_grad():
            assert_close(self._traced(model)(x), model(x))

    def test_fx_backward(self, model: nn.Module, x: Tensor) -> None:
        traced = self._traced(model.train())
        traced(x).square().mean().backward()
        grads = {name.removeprefix("graph_module."): p.grad for name, p in traced.named_parameters()}
        assert grads.keys() == dict(model.named_parameters()).keys()
        assert all(g is not None for g in grads.values())

    def test_fx_features(self, name: str, x: Tensor) -> None:
        graph = create(name, features_only=True, feature_cls="fx")
        assert isinstance(graph, FeatureGraphNet)
        assert_close(graph(x), create(name, features_only=True)(x))

    def test_compile_without_graph_breaks(self, model: nn.Module, x: Tensor) -> None:
        self.check_compiles(model, x, backend="aot_eager")

    @staticmethod
    def check_compiles(model: nn.Module, x: Tensor, backend: str) -> None:
        torch.compiler.reset()
        with torch.no_grad():
            assert_close(torch.compile(model, fullgraph=True, backend=backend)(x), model(x))

    @staticmethod
    def _traced(model: nn.Module) -> GraphExtractNet:
        _, nodes = get_graph_node_names(model)
        return GraphExtractNet(model, [nodes[-1]]).train(model.training)

    # --- memory formats, precision, checkpointing

    def test_channels_last(self, model: nn.Module, x: Tensor) -> None:
        with torch.no_grad():
            wanted = model(x)
            got = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
        assert_close(got, wanted, rtol=1e-4, atol=1e-4)

    def test_autocast(self, model: nn.Module, x: Tensor) -> None:
        with torch.no_grad():
            wanted = model(x)
            with torch.autocast("cpu", torch.bfloat16):
                got = model(x)
        assert_close(got.float(), wanted, rtol=0.05, atol=0.05 * wanted.abs().max().item())

    def test_grad_checkpointing(self, model: nn.Module, x: Tensor) -> None:
        model.train()
        state = copy.deepcopy(model.state_dict())
        output, grads = model(x), gradients(model, x)
        model.load_state_dict(state)
        model.set_grad_checkpointing(True)
        assert_close(model(x), output)
        assert_same_gradients(gradients(model, x), grads)
        _, intermediates = model.forward_intermediates(x)
        model.set_grad_checkpointing(False)
        assert_close(intermediates, model.forward_intermediates(x)[1])

    # --- as an object

    @pytest.mark.parametrize("coarse", [False, True])
    def test_group_matcher(self, model: nn.Module, coarse: bool) -> None:
        groups = group_parameters(model, model.group_matcher(coarse=coarse))
        names = [name for group in groups.values() for name in group]
        assert sorted(names) == sorted(name for name, _ in model.named_parameters())
        assert len(groups) > 2  # stem, blocks and head do not fall into one

    def test_pickle_and_deepcopy(self, model: nn.Module, x: Tensor) -> None:
        with torch.no_grad():
            wanted = model(x)
            for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
                assert_close(copied(x), wanted, rtol=0, atol=0)
