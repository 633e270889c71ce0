from pathlib import Path

import pytest
import torch

from timm_interpretable.data.boxes import box_mask, load_boxes


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "boxes.csv"
    file.write_text(text)
    return file


def test_load_boxes(tmp_path: Path) -> None:
    file = write(tmp_path, "xmin,path,ymin,xmax,ymax,note\n1,a/x.jpg,2,3.5,4,-\n5,b/y.jpg,6,7,8,-\n0,a/x.jpg,0,1,1,-\n")
    assert load_boxes(file) == {"a/x.jpg": [(1, 2, 3.5, 4), (0, 0, 1, 1)], "b/y.jpg": [(5, 6, 7, 8)]}


def test_missing_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"boxes\.csv has no column xmin, ymax"):
        load_boxes(write(tmp_path, "path,ymin,xmax\n"))
    with pytest.raises(ValueError, match="has no column path, xmin"):
        load_boxes(write(tmp_path, ""))


@pytest.mark.parametrize("row", ["a,1,2,3", "a,1,2,x,4", "a,3,2,1,4", "a,1,2,3,2", "a,nan,2,3,4", "a,1,2,inf,4"])
def test_bad_row_is_named(tmp_path: Path, row: str) -> None:
    with pytest.raises(ValueError, match=r"line 3: .*got a,"):
        load_boxes(write(tmp_path, f"path,xmin,ymin,xmax,ymax\nok,0,0,1,1\n{row}\n"))


def test_mask_is_the_union_of_the_boxes() -> None:
    mask = box_mask([(1, 0, 3, 2), (2, 1, 4, 3)], height=3, width=5)
    assert mask.dtype == torch.bool
    assert mask.int().tolist() == [[0, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 0]]


def test_pixel_counts_when_its_centre_is_inside() -> None:
    assert box_mask([(0.4, 0, 2.6, 1)], 1, 4).tolist() == [[True, True, True, False]]
    assert box_mask([(0.6, 0, 2.4, 1)], 1, 4).tolist() == [[False, True, False, False]]


def test_scale_and_cut() -> None:
    box = [(56.0, -10.0, 300.0, 112.0)]
    small, large = box_mask(box, 56, 56, scale=0.25), box_mask(box, 224, 224)
    assert torch.equal(small.repeat_interleave(4, 0).repeat_interleave(4, 1), large)
    assert large.sum() == 168 * 112


def test_scales_that_differ() -> None:
    box = [(56.0, 28.0, 112.0, 112.0)]
    assert torch.equal(box_mask(box, 112, 56, scale=(0.5, 0.25)), box_mask([(14.0, 14.0, 28.0, 56.0)], 112, 56))


def test_no_boxes() -> None:
    assert not box_mask([], 4, 4).any()
