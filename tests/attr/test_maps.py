import pytest
import torch
from captum.attr import InputXGradient, LayerGradCam

from timm_interpretable.attr import ClassMap, maps_of, smoothed
from timm_interpretable.attr.smoothing import blurred, odd_share
from timm_interpretable.metrics import pixel_removal

TARGET = torch.tensor([0, 3, 1])


class TestMapsOf:
    def test_tensors(self, rng):
        maps = torch.randn(3, 2, 16, 16, generator=rng, requires_grad=True)
        images = torch.rand(3, 3, 16, 16)
        assert torch.equal(maps_of(maps[:, 0], images, TARGET), maps[:, 0])
        torch.testing.assert_close(maps_of(maps, images, TARGET), maps.sum(1).detach())
        assert not maps_of(maps, images, TARGET).requires_grad

    def test_attributions_with_their_options_and_functions(self, facnn, images):
        wanted = ClassMap(facnn).attribute(images, target=TARGET, layers="average").sum(1)
        torch.testing.assert_close(maps_of(ClassMap(facnn), images, TARGET, layers="average"), wanted)
        torch.testing.assert_close(
            maps_of(lambda x, target: ClassMap(facnn).attribute(x, target, layers="average"), images, TARGET), wanted
        )
        other = InputXGradient(facnn).attribute(images.requires_grad_(), target=TARGET).sum(1)
        torch.testing.assert_close(maps_of(InputXGradient(facnn), images, TARGET), other.detach())

    def test_layer_attributions_get_the_size_of_the_images(self, facnn, images):
        maps = maps_of(LayerGradCam(facnn, facnn.stages[-1]), images, TARGET)
        assert maps.shape == (3, 16, 16)
        assert not maps.requires_grad

    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
    def test_sources_may_take_gradients_whatever_mode_the_caller_is_in(self, facnn, images, context):
        def by_hand(x, target):
            x = x.clone().requires_grad_()
            score = facnn(x).gather(1, target[:, None]).sum()
            return x * torch.autograd.grad(score, x)[0]

        expected = InputXGradient(facnn).attribute(images, target=TARGET).sum(1).detach()
        with context():
            x, target = images.clone(), TARGET.clone()  # made here: tensors of inference mode, in that one
            for source in (InputXGradient(facnn), by_hand):
                maps = maps_of(source, x, target)
                assert not maps.requires_grad
                torch.testing.assert_close(maps, expected)
            assert torch.is_grad_enabled() == (context is torch.enable_grad)

    def test_metrics_take_all_three(self, facnn, images):
        predict = lambda x: facnn(x).softmax(1)  # noqa: E731
        method = ClassMap(facnn)
        by_tensor = pixel_removal(predict, images, method.attribute(images, target=TARGET), TARGET)
        assert by_tensor.std() > 0
        for source in (method, lambda x, target: method.attribute(x, target)):
            torch.testing.assert_close(pixel_removal(predict, images, source, TARGET, batch_size=2), by_tensor)

    @pytest.mark.parametrize(
        ("source", "error", "message"),
        [
            ("a map", TypeError, "maps from str: expected a tensor"),
            (lambda x, target: [1], TypeError, "gave list"),
            (torch.zeros(2, 16, 16), ValueError, r"maps \(2, 16, 16\) of images \(3, 3, 16, 16\)"),
            (torch.zeros(3, 5), ValueError, r"maps \(3, 5\)"),
        ],
    )
    def test_bad_sources(self, images, source, error, message):
        with pytest.raises(error, match=message):
            maps_of(source, images, TARGET)

    def test_a_tensor_takes_no_options(self, images):
        with pytest.raises(TypeError, match="no options: got layers"):
            maps_of(images, images, TARGET, layers="average")


class TestSmoothed:
    @pytest.mark.parametrize("size", [1, 3, 7, 31])
    def test_the_mean_of_the_pixels_that_exist(self, rng, size):
        maps = torch.randn(2, 9, 12, generator=rng)
        found, reach = smoothed(maps, size), size // 2
        assert found.shape == maps.shape
        for row in (0, 4, 8):
            for column in (0, 5, 11):
                around = maps[:, max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
                torch.testing.assert_close(found[:, row, column], around.mean((1, 2)))

    def test_constants_stay_and_checkerboards_go(self):
        torch.testing.assert_close(smoothed(torch.full((1, 8, 8), 2.5), 5), torch.full((1, 8, 8), 2.5))
        board = ((torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2 - 1).float()[None]
        assert smoothed(board, 15).abs().max() < 0.02
        assert smoothed(board.bfloat16(), 3).dtype == torch.float32

    @pytest.mark.parametrize(("side", "size"), [(5, 1), (19, 1), (20, 3), (32, 3), (96, 9), (224, 23)])
    def test_a_share_of_the_side_is_odd(self, side, size):
        assert odd_share(side, 0.1) == size

    @pytest.mark.parametrize("size", [0, 2, -3])
    def test_bad_sizes(self, size):
        with pytest.raises(ValueError, match=f"size={size}, expected an odd number"):
            smoothed(torch.zeros(1, 8, 8), size)


class TestBlurred:
    def test_a_point_becomes_a_gaussian_and_keeps_its_sum_inside(self):
        point = torch.zeros(1, 1, 41, 41)
        point[..., 20, 20] = 1
        spread = blurred(point, 3.0)[0, 0]
        assert spread.sum().item() == pytest.approx(1, abs=1e-5)
        distance = torch.arange(41.0) - 20
        assert (spread.sum(0) * distance**2).sum().sqrt().item() == pytest.approx(3, rel=0.02)
        torch.testing.assert_close(spread, spread.T)

    def test_constants_stay_also_at_the_border_and_the_type_too(self):
        flat = torch.full((2, 3, 20, 30), 0.75, dtype=torch.bfloat16)
        assert torch.equal(blurred(flat), flat)

    def test_sigma_follows_the_size(self, rng):
        images = torch.rand(1, 1, 56, 60, generator=rng)
        torch.testing.assert_close(blurred(images), blurred(images, 2.5))
        with pytest.raises(ValueError, match=r"sigma=-1\.0"):
            blurred(images, -1.0)
