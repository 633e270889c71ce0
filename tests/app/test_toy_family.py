"""A family of models that the page has never heard of: a network and its row in the catalogue are enough."""

import pytest
import torch
from torch import Tensor, nn

gradio_client = pytest.importorskip("gradio_client", reason="no gradio: pip install 'timm-interpretable[test]'")
from timm_interpretable.app.models import Entry, Models  # noqa: E402
from timm_interpretable.app.settings import Settings  # noqa: E402
from timm_interpretable.attr import METHODS, Cost, Method, explained_by, register_method  # noqa: E402

from .conftest import SAMPLES, start  # noqa: E402


class ToyNet(nn.Module):
    """Class k likes the pixels of colour k: the logit is their mean."""

    explanation = "toy_map"
    num_classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.pretrained_cfg = dict(input_size=(3, 24, 24), mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear",
                                   crop_pct=1.0, crop_mode="squash", label_names=("red", "green", "blue"))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.mean((2, 3))


class ToyEvidence:
    """The terms of the means."""

    def __init__(self, net: ToyNet, x: Tensor) -> None:
        self.terms = net.scale * x / x.shape[2:].numel()
        self.logits, self.nbytes = self.terms.sum((2, 3)), self.terms.nbytes

    def maps(self, classes: Tensor) -> Tensor:
        return self.terms[torch.arange(len(classes))[:, None], classes]

    def explanation(self, classes: Tensor):
        from timm_interpretable.attr import Explanation

        own = self.maps(classes[:, None])
        return Explanation((own / 3).expand(-1, 3, -1, -1), [])


@pytest.fixture(scope="module")
def toy():
    register_method(
        Method("toy_map", "toy map", Cost.FORWARD, applies=explained_by("toy_map"),
               evidence=lambda context, images: ToyEvidence(context.model, images))
    )  # fmt: skip
    yield from start(Settings(fast_workers=1, slow_workers=1), Models([Entry("toy", "Toy", "colours", ToyNet)]))
    del METHODS["toy_map"]


@pytest.fixture(scope="module")
def client(toy, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("downloads"))
    return gradio_client.Client(toy.url, verbose=False, download_files=folder)


def test_the_page_has_it(toy):
    labels = [choice[0] for c in toy.page.config["components"] for choice in c["props"].get("choices") or []]
    assert "Toy, colours: toy map" in labels
    assert "| toy map | forward pass | – |" in str(toy.page.config["components"])
    titles = [c["props"].get("label") for c in toy.page.config["components"] if c["type"] == "tabitem"]
    assert {"Compare", "Through depth", "Why A rather than B", "Remove pixels"} <= set(titles)


def test_the_api_has_it(client):
    (listed,) = client.predict(api_name="/methods")
    assert (listed["model"], listed["title"], listed["classes"]) == ("toy", "Toy, colours", 3)
    assert listed["methods"][0] == {"key": "toy_map", "title": "toy map", "cost": "forward pass"}
    assert {"integrated_gradients", "rise"} <= {method["key"] for method in listed["methods"]}


def test_it_explains_and_compares(client):
    picture = gradio_client.handle_file(str(SAMPLES["cat"]))
    found, _ = client.predict(picture, api_name="/explain")
    assert (found["method"], found["title"]) == ("toy_map", "Toy, colours: toy map")
    assert found["sum"] == pytest.approx(found["logit"], rel=1e-3)
    several, gallery = client.predict(picture, ["toy", "toy:input_x_gradient"], "green", api_name="/compare")
    assert [one["target"] for one in several] == ["green"] * 2
    # the network is linear: its gradient times the input is its own map
    assert several[0]["sum"] == pytest.approx(several[1]["sum"], rel=1e-3)
    assert [one["caption"] for one in gallery] == ["Toy, colours: toy map", "Toy, colours: input x gradient"]
