"""`explain --report`: one page of all pictures and a CSV, resumable, and the same from one process or two."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from timm_interpretable.cli import app
from timm_interpretable.cli.explainer import Explainer
from timm_interpretable.cli.report import Report, Row

MODEL = "facnn_resnet18.cifar10"


def run(*args: object):
    return CliRunner().invoke(app, ["explain", "--model", MODEL, "--device", "cpu", *map(str, args)])


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Seven pictures of noise; the folders of six name a class."""
    rng, root = np.random.default_rng(0), tmp_path / "pictures"
    for folder, count in (("cat", 3), ("ship & <b>", 1), ("truck", 3)):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            colours = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(colours).resize((48, 32)).save(root / folder / f"{i}.png")
    return root


def table(file: Path) -> list[dict[str, str]]:
    with open(file.with_suffix(".csv"), newline="") as stream:
        return list(csv.DictReader(stream))


def test_page_and_table_say_the_same(pictures, tmp_path):
    page = tmp_path / "out" / "report.html"
    result = run(pictures, "--out", tmp_path / "out", "--report", page)
    assert result.exit_code == 0, result.output
    assert "report of 7 pictures" in result.stdout
    rows, text = table(page), page.read_text()
    assert [row["folder_class"] for row in rows] == ["cat"] * 3 + [""] + ["truck"] * 3
    figures = re.findall(r'<figure class="(\w*)" data-name="(.+?)" data-class="(.+?)"\s+data-confidence="(.+?)"', text)
    assert len(figures) == 7
    mistakes = [bool(kind) for kind, *_ in figures]
    assert mistakes == sorted(mistakes, reverse=True)  # they come first, and then the least sure
    confidences = [float(confidence) for kind, *_, confidence in figures if not kind]
    assert confidences == sorted(confidences)
    wrong = [row for row in rows if row["folder_class"] not in ("", row["predicted"])]
    assert sum(mistakes) == len(wrong)
    assert f"The predicted class is that of the folder for {6 - len(wrong)} of 6." in text
    for row in rows:
        assert 0 <= float(row["confidence"]) <= 1
        assert 0 <= float(row["positive_share"]) <= 1
        assert Path(row["figure"]).is_file()
    assert "ship%20%26%20%3Cb%3E/0.png" in text  # a link that a browser can follow
    assert "<b>/" not in text
    assert text.count('src="data:image/jpeg;base64,') == 7
    assert not re.search(r'(src|href)="(https?:)?//', text)
    assert not list(page.parent.glob(".report*"))


def test_a_stopped_run_goes_on_to_the_same_report(pictures, tmp_path, monkeypatch):
    page, whole = tmp_path / "out" / "report.html", tmp_path / "whole" / "report.html"
    args = [pictures, "--batch-size", 2]
    assert run(*args, "--out", tmp_path / "whole", "--report", whole).exit_code == 0
    explained, plain = [], Explainer.run

    def stopping(self, paths, stems):
        if len(explained) == 4:
            raise KeyboardInterrupt
        explained.extend(paths)
        return plain(self, paths, stems)

    monkeypatch.setattr(Explainer, "run", stopping)
    run(*args, "--out", tmp_path / "out", "--report", page)
    assert not page.exists()
    with open(tmp_path / "out" / ".report.html.0.jsonl", "a") as journal:
        journal.write('["half a li')  # what a process that is killed leaves
    explained.append(None)
    result = run(*args, "--out", tmp_path / "out", "--report", page)
    assert "4 pictures were explained before" in result.stderr
    assert len(explained) == 5 + 3
    without = [[{k: v for k, v in row.items() if k != "figure"} for row in table(one)] for one in (page, whole)]
    assert without[0] == without[1]


def test_rows_of_other_settings_or_of_another_picture_are_not_taken(pictures, tmp_path):
    picture, figure = pictures / "cat" / "0.png", tmp_path / "figure.png"
    figure.touch()
    row = Row("0.png", str(figure), "", "cat", 0.5, "cat", None, "")
    report = Report(tmp_path / "report.html", dict(method=None))
    report.add(picture, row)
    report.close()
    assert Report(tmp_path / "report.html", dict(method=None), rank=1).row_of(picture) == row
    assert Report(tmp_path / "report.html", dict(method="fame")).row_of(picture) is None
    Image.new("RGB", (9, 9)).save(picture)
    assert Report(tmp_path / "report.html", dict(method=None)).row_of(picture) is None


def test_two_processes_give_the_report_of_one(pictures, tmp_path, in_two_processes):
    one, two = tmp_path / "one" / "report.html", tmp_path / "two" / "report.html"
    assert run(pictures, "--out", one.parent, "--report", one).exit_code == 0
    said = in_two_processes("explain", pictures, "--model", MODEL, "--out", two.parent, "--report", two)
    assert ["report of 7 pictures" in text for text in said] == [True, False]
    for row, other in zip(table(one), table(two), strict=True):
        assert other["figure"] == row["figure"].replace(str(one.parent), str(two.parent))
        for key in ("picture", "folder_class", "predicted", "explained"):
            assert other[key] == row[key]
        for key in ("confidence", "positive_share"):
            assert float(other[key]) == pytest.approx(float(row[key]), abs=1e-5)


def test_several_processes_need_a_report(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("timm_interpretable.cli.explain.share_of", lambda device: (Two(), "cpu"))
    result = run(pictures, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "several processes share a run only with --report" in result.stderr


class Two:
    rank, processes = 0, 2


def test_a_long_report_shows_the_mistakes_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("timm_interpretable.cli.report._SHOWN", 2)
    report = Report(tmp_path / "report.html", {})
    pictures = [tmp_path / f"{i}.png" for i in range(4)]
    for i, picture in enumerate(pictures):
        picture.write_bytes(b"x")
        report.add(picture, Row(picture.name, str(picture), "dog" if i == 3 else "cat", "cat", 0.5, "cat", None, ""))
    count, csv_file = report.write(pictures, "maps of a model")
    assert count == 4
    assert len(table(csv_file)) == 4
    text = (tmp_path / "report.html").read_text()
    assert "4 pictures. The predicted class is that of the folder for 3 of 4. The page shows 2 of them" in text
    assert 'data-name="3.png"' in text
    assert text.count("<figure") == 2
