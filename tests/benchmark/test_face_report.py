"""What the report about maps of pairs of faces says, on a network that is understood."""

import pytest
import torch

from timm_interpretable.attr.faces import FaceMaps, face_methods
from timm_interpretable.benchmark.faces import verification_report

NAMES = ["FAME", "CorrRISE", "Grad-CAM", "random"]


class LeftAndRight(torch.nn.Module):
    """Embeds an image as the means of its left and of its right half; a timm model in what the methods use of it."""

    num_features = 2

    def forward_features(self, x):
        half = x.shape[-1] // 2
        zero = torch.zeros_like(x[..., :half])
        return torch.cat([torch.cat([x[..., :half], zero], -1), torch.cat([zero, x[..., half:]], -1)], 1)

    def forward_head(self, features):
        return features.mean((2, 3))

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


@pytest.fixture
def pairs(rng):
    """Four images, and references that are alike in the left half alone."""
    return 0.5 + 0.1 * torch.rand(4, 1, 24, 20, generator=rng), torch.tensor([[1.0, 0.0]]).expand(4, -1)


def test_report(pairs):
    probes, references = pairs
    genuine = torch.tensor([True, True, False, False])
    methods = face_methods(LeftAndRight(), n_steps=3, n_samples=50)
    report = verification_report(LeftAndRight(), methods, probes, references, genuine, 0.8, batch_size=3)
    assert list(report) == NAMES
    for row in report.values():
        for rule in ("ties", "strict"):
            for kind in ("deletion", "insertion"):
                assert 0 <= row[rule][kind] <= 100
                assert len(row[rule]["curves"][kind]) == 11
        assert row["seconds"] > 0
    # hiding what is alike makes them less so, hiding what differs more
    for name in ("CorrRISE", "Grad-CAM"):
        assert all(change < -0.01 for change in report[name]["change"]["similar"].values())
        assert all(change > 0.01 for change in report[name]["change"]["dissimilar"].values())


def test_report_counts_empty_maps(pairs):
    probes, references = pairs
    genuine = torch.tensor([True, False, False, False])
    nothing = {"nothing": lambda x, other, same: FaceMaps(torch.zeros(4, 24, 20), torch.ones(4, 24, 20))}
    row = verification_report(LeftAndRight(), nothing, probes, references, genuine, 0.8)["nothing"]
    assert row["empty"] == {
        "similar": {"genuine": 1, "impostor": 3},
        "dissimilar": {"genuine": 0, "impostor": 0},
    }
