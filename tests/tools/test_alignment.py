"""`python -m tools.alignment`: cosines of units whose weights are known."""

import timm
import torch
import torch.nn.functional as F

import timm_interpretable  # noqa: F401
from tools.alignment import cosines


def test_cosines_are_those_of_the_weights_themselves():
    torch.manual_seed(0)
    args = dict(channels=(4, 5), strides=(1, 2), kernel_sizes=(3, 3), ranks=(3, 4, 5), norm="l2")
    net = timm.create_model("coda_net_s", num_classes=3, **args).eval()
    images = torch.rand(2, 3, 8, 8)
    found = cosines(net, images)
    assert found.shape == (3,)
    # the first layer by its definition: w(x) is B a + b, of length 1, for every unit and position
    layer, seen = net.stages[0].layers[0], net.encoding(images)
    code = layer.code(seen)
    code = torch.cat([code, torch.ones_like(code[:, :1])], 1)
    weights = torch.einsum("crd,brhw->bcdhw", layer.units(), code)
    patches = F.unfold(seen, 3, padding=1).unflatten(-1, (8, 8))[:, None]
    expected = F.cosine_similarity(weights, patches.expand_as(weights), dim=2).abs().mean()
    torch.testing.assert_close(found[0], expected)
