"""The contract that every attribution here keeps; a test class per method subclasses `AttributionContract`."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from captum.attr import Attribution, LayerAttribution, NoiseTunnel
from captum.metrics import infidelity, sensitivity_max
from torch import nn

from timm_interpretable.attr import ClassMap


def state_of(model):
    """Everything about a model that an attribution could disturb."""
    return {
        "tensors": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "training": [module.training for module in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "hooks": [
            len(hooks)
            for module in model.modules()
            for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        ],
    }


class AttributionContract:
    """Subclasses give `method` and the fixtures `model` (eval mode, fp32) and `images` (fp32, `(B > 1, C, H, W)`)."""

    method: type[Attribution]
    unsupported_model = nn.Conv2d(3, 5, 1)

    def attribute(self, model, images, target=1, **kwargs):
        return self.method(model).attribute(images, target=target, **kwargs)

    def shape(self, images):
        return images.shape

    @pytest.fixture
    def expected(self, model, images):
        return self.attribute(model, images)

    def test_result_is_a_plain_tensor(self, images, expected):
        assert expected.shape == self.shape(images)
        assert expected.dtype == torch.float32
        assert expected.is_contiguous()
        assert not expected.requires_grad
        assert expected.isfinite().all()
        assert expected.std() > 0

    def test_tuple_in_tuple_out(self, model, images, expected):
        result = self.attribute(model, (images,))
        assert isinstance(result, tuple)
        assert len(result) == 1
        torch.testing.assert_close(result[0], expected, rtol=0, atol=0)

    @pytest.mark.parametrize(
        "form",
        [
            lambda b: torch.tensor(1),
            lambda b: torch.tensor([1]),
            lambda b: torch.full((b,), 1),
            lambda b: [1] * b,
            lambda b: (1,),
            lambda b: [(1,)] * b,
        ],
        ids=["0-d tensor", "1-element tensor", "1-d tensor", "list", "tuple", "list of tuples"],
    )
    def test_all_forms_of_a_target_are_equal(self, model, images, expected, form):
        torch.testing.assert_close(self.attribute(model, images, form(len(images))), expected, rtol=0, atol=0)

    def test_batch_equals_one_by_one(self, model, images):
        targets = list(range(len(images)))
        single = torch.cat([self.attribute(model, images[i : i + 1], t) for i, t in enumerate(targets)])
        atol = 1e-5 * single.abs().max().item()
        torch.testing.assert_close(self.attribute(model, images, targets), single, rtol=1e-4, atol=atol)
        assert not torch.allclose(single, self.attribute(model, images, 0), rtol=1e-2)

    @pytest.mark.parametrize("training", [False, True])
    def test_leaves_model_and_input_alone(self, model, images, expected, training):
        model.train(training)
        for p in list(model.parameters())[::2]:
            p.grad = torch.ones_like(p)
        x = images.clone().requires_grad_()
        x.grad = torch.ones_like(x)
        before = state_of(model)
        result = self.attribute(model, x)
        torch.testing.assert_close(state_of(model), before, rtol=0, atol=0)
        torch.testing.assert_close(x.detach(), images, rtol=0, atol=0)
        torch.testing.assert_close(x.grad, torch.ones_like(x), rtol=0, atol=0)
        assert x.requires_grad
        assert x.is_leaf
        torch.testing.assert_close(result, expected)  # evaluation mode is explained, whatever the mode

    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
    def test_gradient_mode_does_not_matter(self, model, images, expected, context):
        model.requires_grad_(False)
        with context():
            result = self.attribute(model, images)
        torch.testing.assert_close(result, expected)

    def test_autocast(self, model, images, expected):
        with torch.autocast("cpu", torch.bfloat16):
            result = self.attribute(model, images)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, expected, rtol=0, atol=0.05 * expected.abs().max().item())

    def test_float64(self, model, images, expected):
        result = self.attribute(copy.deepcopy(model).double(), images.double())
        assert result.dtype == torch.float64
        torch.testing.assert_close(result.float(), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())

    def test_channels_last(self, model, images, expected):
        model.to(memory_format=torch.channels_last)
        result = self.attribute(model, images.contiguous(memory_format=torch.channels_last))
        assert result.is_contiguous()
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())

    @pytest.mark.parametrize("wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel])
    def test_wrapped_models(self, model, images, expected, wrap):
        wrapped = wrap(model)
        wrapped(images)
        torch.testing.assert_close(self.attribute(wrapped, images), expected)
        torch.testing.assert_close(self.attribute(wrapped.train(), images), expected)

    def test_threads_equal_serial(self, model, images):
        model.train()
        method, targets = self.method(model), [i % 4 for i in range(16)]
        serial = [method.attribute(images, target=t) for t in targets]
        with ThreadPoolExecutor(8) as pool:
            parallel = list(pool.map(lambda t: method.attribute(images, target=t), targets))
        torch.testing.assert_close(parallel, serial, rtol=0, atol=0)

    @pytest.mark.parametrize("training", [False, True])
    def test_what_cannot_be_copied_is_shared(self, model, images, expected, training):
        model.train(training)
        model.kept = {"of an earlier pass": [2 * torch.ones(3, requires_grad=True)]}
        model.lock = threading.Lock()
        torch.testing.assert_close(self.attribute(model, images), expected)
        assert model.training == training

    def test_no_nan_goes_unnoticed(self, model, images):
        spoiled = images.clone()
        spoiled[1, 0, 3, 3] = torch.nan
        with pytest.raises(ValueError, match=r"of images 1 of the batch are not finite: the inputs hold NaN"):
            self.attribute(model, spoiled)
        next(model.parameters()).data.fill_(torch.inf)
        with pytest.raises(ValueError, match=r"of the batch are not finite: \S+ of the model holds NaN or infinity"):
            self.attribute(model, images)

    def test_target_errors(self, model, images):
        with pytest.raises(AssertionError, match="Target not provided"):
            self.attribute(model, images, None)
        for target in (99, -1, [0, 99, 0], torch.tensor([0, 0, 99]), (99,), [(0,), (99,), (0,)]):
            with pytest.raises(IndexError, match=r"target (99|-1) is out of range, expected 0 to \d+"):
                self.attribute(model, images, target)
        with pytest.raises(AssertionError):
            self.attribute(model, images, [0])
        with pytest.raises(ValueError, match="one class for each"):
            self.attribute(model, images, (slice(0, 2),))

    def test_input_errors(self, model, images):
        for inputs in ((), (images, images), images[:0], images[0]):
            with pytest.raises(ValueError, match="expected"):
                self.attribute(model, inputs)
        with pytest.raises(ValueError, match="additional_forward_args"):
            self.attribute(model, images, additional_forward_args=(1,))

    def test_unsupported_model_is_named(self):
        with pytest.raises(TypeError, match=type(self.unsupported_model).__name__):
            self.method(self.unsupported_model)

    def test_noise_tunnel(self, model, images, expected):
        tunnel = NoiseTunnel(self.method(model))
        quiet = tunnel.attribute(images, nt_samples=2, stdevs=1e-6, target=1)
        torch.testing.assert_close(quiet, expected, rtol=1e-2, atol=1e-3 * expected.abs().max().item())
        loud = tunnel.attribute((images,), nt_type="vargrad", nt_samples=2, stdevs=0.1, target=[0, 1, 2])
        assert loud[0].shape == self.shape(images)
        assert loud[0].max() > 0
        parts = tunnel.attribute(
            images, nt_samples=3, nt_samples_batch_size=2, stdevs=1e-6, target=torch.tensor([1, 1, 1])
        )
        torch.testing.assert_close(parts, expected, rtol=1e-2, atol=1e-3 * expected.abs().max().item())

    def test_convergence_delta(self, model, images):
        method, targets = self.method(model), [0, 1, 2]
        if not method.has_convergence_delta():
            pytest.skip("this method makes no claim of completeness")
        result, delta = method.attribute(images, target=targets, return_convergence_delta=True)
        assert delta.shape == (len(images),)
        assert delta.abs().max() < 1e-4
        again = method.compute_convergence_delta(result, torch.zeros_like(images), images, targets)
        torch.testing.assert_close(again, delta, rtol=0, atol=0)
        spoiled = method.compute_convergence_delta(result + 1, None, (images,), target=targets)
        torch.testing.assert_close(spoiled, torch.full_like(delta, images[0].numel()), rtol=1e-3, atol=0)
        _, delta = NoiseTunnel(method).attribute(
            images, nt_samples=2, stdevs=0.1, target=targets, return_convergence_delta=True
        )
        assert delta.shape == (2 * len(images),)
        assert delta.abs().max() < 1e-4

    def test_captum_metrics(self, model, images):
        def perturb(x):
            noise = 0.01 * torch.randn_like(x)
            return noise, x - noise

        method = self.method(model)
        maps = LayerAttribution.interpolate(method.attribute(images, target=1), images.shape[2:]).expand_as(images)
        result = infidelity(model, perturb, images, maps, target=1, n_perturb_samples=2)
        assert result.shape == (len(images),)
        assert result.isfinite().all()
        near, far = (
            sensitivity_max(method.attribute, images, perturb_radius=r, n_perturb_samples=2, target=1)
            for r in (1e-4, 1e-1)
        )
        assert ((near > 0) & (near < far)).all()


class TestClassMap(AttributionContract):
    method = ClassMap

    @pytest.fixture
    def model(self, facnn):
        return facnn
