"""Triton kernels of the dynamic alignment convolution; `dau_triton` launches them.

All of them see the filters as a matrix: its columns are pairs of a unit and an entry of the code, its rows the D
numbers of a patch, tap by tap, the channels of a tap next to each other. A tile has the columns of a few units, and as
many entries of the code of each as fit: their products with patches or codes live in registers, and leave a kernel only
summed over the code, the units or the positions.

Images are (N, H, W, Cin), all other tensors have one row per position of the output, M = N h w of them. `linear` has R
columns of codes, then C columns b_c^T x. Offsets are 64 bits wide wherever a tensor may have more than 2^31 elements.
"""

import triton
import triton.language as tl

__all__ = ["codes_gradient_kernel", "filters_gradient_kernel", "forward_kernel", "images_gradient_kernel"]


@triton.jit
def _corner(position, out_height, out_width, STRIDE: tl.constexpr, PADDING: tl.constexpr):
    """Image of an output position, and the row and column at which its patch begins."""
    image = position // (out_height * out_width)
    rest = position % (out_height * out_width)
    return image, rest // out_width * STRIDE - PADDING, rest % out_width * STRIDE - PADDING


@triton.jit
def _patches(
    images_ptr, image, top, left, valid, start, height, width,
    CIN: tl.constexpr, KERNEL: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Numbers `start` to `start + BLOCK_D` of the patches whose corners are given, `(positions, BLOCK_D)`."""
    d = start + tl.arange(0, BLOCK_D)
    tap, channel = d // CIN, d % CIN
    y = top[:, None] + (tap // KERNEL)[None, :]
    x = left[:, None] + (tap % KERNEL)[None, :]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    corner = ((image.to(tl.int64) * height + top) * width + left) * CIN
    within = (tap // KERNEL * width + tap % KERNEL) * CIN + channel
    mask = valid[:, None] & (d < KERNEL * KERNEL * CIN)[None, :] & inside
    return tl.load(images_ptr + corner[:, None] + within[None, :], mask=mask, other=0.0)


@triton.jit
def _products(
    images_ptr, filters_ptr, position, positions, first_unit, units, first_rank, height, width, out_height, out_width,
    CIN: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    RANK: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """`B_{c,r}^T x` of a tile of positions and columns, `(BLOCK_M, BLOCK_U, BLOCK_R)`."""
    depth: tl.constexpr = KERNEL * KERNEL * CIN
    valid = position < positions
    image, top, left = _corner(position, out_height, out_width, STRIDE, PADDING)
    column = tl.arange(0, BLOCK_U * BLOCK_R)
    unit, rank = first_unit + column // BLOCK_R, first_rank + column % BLOCK_R
    real = (unit < units) & (rank < RANK)
    row = (unit.to(tl.int64) * RANK + rank) * depth
    products = tl.zeros((BLOCK_M, BLOCK_U * BLOCK_R), tl.float32)
    for start in range(0, depth, BLOCK_D):
        patches = _patches(images_ptr, image, top, left, valid, start, height, width, CIN, KERNEL, BLOCK_D)
        d = start + tl.arange(0, BLOCK_D)
        filters = tl.load(filters_ptr + row[None, :] + d[:, None], mask=real[None, :] & (d < depth)[:, None], other=0.0)
        products = tl.dot(patches, filters, products, input_precision=PRECISION)
    return tl.reshape(products, (BLOCK_M, BLOCK_U, BLOCK_R))


@triton.jit
def _codes(linear_ptr, position, positions, first_rank, stride, RANK: tl.constexpr, BLOCK_R: tl.constexpr):
    """Entries of the code from `first_rank` on, `(positions, BLOCK_R)`."""
    rank = first_rank + tl.arange(0, BLOCK_R)
    mask = (position < positions)[:, None] & (rank < RANK)[None, :]
    return tl.load(linear_ptr + position.to(tl.int64)[:, None] * stride + rank[None, :], mask=mask, other=0.0)


@triton.jit
def _by_unit(values_ptr, position, valid, first_unit, units, stride, BLOCK_U: tl.constexpr):
    """What belongs to units from `first_unit` on, in fp32, `(positions, BLOCK_U)`; 0 where not valid."""
    unit = first_unit + tl.arange(0, BLOCK_U)
    mask = valid[:, None] & (unit < units)[None, :]
    values = tl.load(values_ptr + position.to(tl.int64)[:, None] * stride + unit[None, :], mask=mask, other=0.0)
    return values.to(tl.float32)


@triton.jit
def _squared_norms(
    linear_ptr, gram_ptr, position, positions, first_unit, units, stride,
    RANK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """`a1^T G_c a1` of a tile of positions and units; of the symmetric matrix G only the tiles up to the diagonal.

    BLOCK_T divides BLOCK_S, so that a tile does not cross the diagonal's square.
    """
    size: tl.constexpr = RANK + 1
    column = tl.arange(0, BLOCK_U * BLOCK_S)
    unit = first_unit + column // BLOCK_S
    matrix = unit.to(tl.int64) * size * size
    square = first_unit + tl.arange(0, BLOCK_U)
    norms = tl.load(gram_ptr + square.to(tl.int64) * size * size + RANK * size + RANK, mask=square < units, other=0.0)
    norms = tl.zeros((BLOCK_M, BLOCK_U), tl.float32) + norms[None, :]
    for right in range(0, RANK, BLOCK_S):
        j = right + column % BLOCK_S
        real = (unit < units) & (j < RANK)
        cross = tl.load(gram_ptr + matrix + RANK * size + j, mask=real, other=0.0)  # B_c^T b_c
        weighted = tl.zeros((BLOCK_M, BLOCK_U * BLOCK_S), tl.float32) + 2 * cross[None, :]
        for left in range(0, right + BLOCK_S, BLOCK_T):
            codes = _codes(linear_ptr, position, positions, left, stride, RANK, BLOCK_T).to(tl.float32)
            i = left + tl.arange(0, BLOCK_T)
            mask = real[None, :] & (i < RANK)[:, None]
            gram = tl.load(gram_ptr + matrix[None, :] + i[:, None] * size + j[None, :], mask=mask, other=0.0)
            twice = tl.where(left < right, 2.0, 1.0)  # once for the tile on the other side of the diagonal
            weighted = tl.dot(codes, gram * twice, weighted, input_precision="ieee")
        codes = _codes(linear_ptr, position, positions, right, stride, RANK, BLOCK_S).to(tl.float32)
        norms += tl.sum(tl.reshape(weighted, (BLOCK_M, BLOCK_U, BLOCK_S)) * codes[:, None, :], 2)
    return norms


@triton.jit
def forward_kernel(
    images_ptr, linear_ptr, filters_ptr, gram_ptr, out_ptr, scale_ptr, slope_ptr,
    positions, units, height, width, out_height, out_width,
    CIN: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    RANK: tl.constexpr, SQ: tl.constexpr, SAVE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """`q g(n)` with `q = v^T x` and `n = ||v||^2`; for the backward pass `g(n)` and `q g'(n)`."""
    groups = tl.cdiv(units, BLOCK_U)
    first_unit = tl.program_id(0) % groups * BLOCK_U  # programs with the same patches run together
    position = tl.program_id(0) // groups * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = position < positions
    stride = RANK + units

    aligned = _by_unit(linear_ptr + RANK, position, valid, first_unit, units, stride, BLOCK_U)
    for first_rank in range(0, RANK, BLOCK_R):
        products = _products(
            images_ptr, filters_ptr, position, positions, first_unit, units, first_rank, height, width, out_height,
            out_width, CIN, KERNEL, STRIDE, PADDING, RANK, PRECISION, BLOCK_M, BLOCK_U, BLOCK_R, BLOCK_D,
        )  # fmt: skip
        codes = _codes(linear_ptr, position, positions, first_rank, stride, RANK, BLOCK_R).to(tl.float32)
        aligned += tl.sum(products * codes[:, None, :], 2)

    norms = _squared_norms(
        linear_ptr, gram_ptr, position, positions, first_unit, units, stride, RANK, BLOCK_M, BLOCK_U, BLOCK_S, BLOCK_T
    )
    bounded = tl.maximum(norms, 1e-12, propagate_nan=tl.PropagateNan.ALL)
    root = tl.sqrt(bounded)
    scale = root / (1 + bounded) if SQ else 1 / root

    unit = first_unit + tl.arange(0, BLOCK_U)
    offset = position.to(tl.int64)[:, None] * units + unit[None, :]
    mask = valid[:, None] & (unit < units)[None, :]
    tl.store(out_ptr + offset, aligned * scale, mask=mask)
    if SAVE:
        slope = (1 - bounded) / (2 * root * (1 + bounded)) / (1 + bounded) if SQ else -0.5 * scale / bounded
        tl.store(scale_ptr + offset, scale, mask=mask)
        tl.store(slope_ptr + offset, tl.where(norms >= 1e-12, aligned * slope, 0.0), mask=mask)


@triton.jit
def codes_gradient_kernel(
    images_ptr, filters_ptr, grad_ptr, out_ptr,
    positions, units, units_per_split, height, width, out_height, out_width,
    CIN: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    RANK: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """`sum_c grad_c B_{c,r}^T x` over the units of a split, `(splits, M, R)`."""
    position = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = position < positions
    first_rank = tl.program_id(1) * BLOCK_R
    begin = tl.program_id(2) * units_per_split
    end = tl.minimum(begin + units_per_split, units)

    total = tl.zeros((BLOCK_M, BLOCK_R), tl.float32)
    for first_unit in range(begin, end, BLOCK_U):
        products = _products(
            images_ptr, filters_ptr, position, positions, first_unit, end, first_rank, height, width, out_height,
            out_width, CIN, KERNEL, STRIDE, PADDING, RANK, PRECISION, BLOCK_M, BLOCK_U, BLOCK_R, BLOCK_D,
        )  # fmt: skip
        grad = _by_unit(grad_ptr, position, valid, first_unit, end, units, BLOCK_U)
        total += tl.sum(products * grad[:, :, None], 1)

    rank = first_rank + tl.arange(0, BLOCK_R)
    row = tl.program_id(2).to(tl.int64) * positions + position
    tl.store(out_ptr + row[:, None] * RANK + rank[None, :], total, mask=valid[:, None] & (rank < RANK)[None, :])


@triton.jit
def images_gradient_kernel(
    linear_ptr, filters_ptr, grad_ptr, out_ptr,
    pixels, units, units_per_split, height, width, out_height, out_width, rows, columns,
    CIN: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    RANK: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """`sum_c grad_c B_c a` over the units of a split, at the patch's pixels, `(splits, N, H, W, Cin)`.

    A program has pixels whose rows, and columns, have one remainder modulo the stride: the taps that meet them are the
    same for all.
    """
    channel_tiles: tl.constexpr = (CIN + BLOCK_I - 1) // BLOCK_I
    first_channel = tl.program_id(1) % channel_tiles * BLOCK_I
    phase = tl.program_id(1) // channel_tiles
    phase_y, phase_x = phase // STRIDE, phase % STRIDE
    index = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    image, rest = index // (rows * columns), index % (rows * columns)
    y, x = rest // columns * STRIDE + phase_y, rest % columns * STRIDE + phase_x
    real = (index < pixels) & (y < height) & (x < width)
    begin = tl.program_id(2) * units_per_split
    end = tl.minimum(begin + units_per_split, units)

    column = tl.arange(0, BLOCK_U * BLOCK_I)
    channel = first_channel + column % BLOCK_I
    total = tl.zeros((BLOCK_M, BLOCK_I), tl.float32)
    for tap_y in range((phase_y + PADDING) % STRIDE, KERNEL, STRIDE):
        for tap_x in range((phase_x + PADDING) % STRIDE, KERNEL, STRIDE):
            # divisible by the stride, so that also a division that rounds negative numbers up is exact
            out_y, out_x = (y + PADDING - tap_y) // STRIDE, (x + PADDING - tap_x) // STRIDE
            valid = real & (out_y >= 0) & (out_y < out_height) & (out_x >= 0) & (out_x < out_width)
            position = (image * out_height + out_y) * out_width + out_x
            for first_unit in range(begin, end, BLOCK_U):
                unit = first_unit + column // BLOCK_I
                within = (tap_y * KERNEL + tap_x) * CIN + channel
                products = tl.zeros((BLOCK_M, BLOCK_U * BLOCK_I), tl.float32)
                for first_rank in range(0, RANK, BLOCK_D):
                    rank = first_rank + tl.arange(0, BLOCK_D)
                    mask = valid[:, None] & (rank < RANK)[None, :]
                    row = position.to(tl.int64) * (RANK + units)
                    codes = tl.load(linear_ptr + row[:, None] + rank[None, :], mask=mask, other=0.0)
                    row = (unit.to(tl.int64)[None, :] * RANK + rank[:, None]) * (KERNEL * KERNEL * CIN)
                    mask = ((unit < end) & (channel < CIN))[None, :] & (rank < RANK)[:, None]
                    filters = tl.load(filters_ptr + row + within[None, :], mask=mask, other=0.0)
                    products = tl.dot(codes, filters, products, input_precision=PRECISION)
                grad = _by_unit(grad_ptr, position, valid, first_unit, end, units, BLOCK_U)
                total += tl.sum(tl.reshape(products, (BLOCK_M, BLOCK_U, BLOCK_I)) * grad[:, :, None], 1)

    channel = first_channel + tl.arange(0, BLOCK_I)
    pixel = ((tl.program_id(2).to(tl.int64) * (pixels // (rows * columns)) + image) * height + y) * width + x
    tl.store(out_ptr + pixel[:, None] * CIN + channel[None, :], total, mask=real[:, None] & (channel < CIN)[None, :])


@triton.jit
def filters_gradient_kernel(
    images_ptr, linear_ptr, grad_ptr, out_ptr,
    positions, units, positions_per_split, stride, height, width, out_height, out_width,
    CIN: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    RANK: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """`sum_p grad_c a_r x` over the positions of a split, `(splits, C, R, D)`."""
    depth: tl.constexpr = KERNEL * KERNEL * CIN
    rank_tiles: tl.constexpr = (RANK + BLOCK_R - 1) // BLOCK_R
    first_rank = tl.program_id(0) % rank_tiles * BLOCK_R
    first_unit = tl.program_id(0) // rank_tiles * BLOCK_U
    start = tl.program_id(1) * BLOCK_D
    begin = tl.program_id(2) * positions_per_split
    end = tl.minimum(begin + positions_per_split, positions)

    total = tl.zeros((BLOCK_U * BLOCK_R, BLOCK_D), tl.float32)
    for first in range(begin, end, BLOCK_M):
        position = first + tl.arange(0, BLOCK_M)
        codes = tl.trans(_codes(linear_ptr, position, end, first_rank, stride, RANK, BLOCK_R))
        grad = tl.trans(_by_unit(grad_ptr, position, position < end, first_unit, units, units, BLOCK_U))
        weighted = tl.reshape(grad[:, None, :] * codes[None, :, :], (BLOCK_U * BLOCK_R, BLOCK_M))
        image, top, left = _corner(position, out_height, out_width, STRIDE, PADDING)
        patches = _patches(images_ptr, image, top, left, position < end, start, height, width, CIN, KERNEL, BLOCK_D)
        total = tl.dot(weighted.to(patches.dtype), patches, total, input_precision=PRECISION)

    row = tl.arange(0, BLOCK_U * BLOCK_R)
    unit, rank = first_unit + row // BLOCK_R, first_rank + row % BLOCK_R
    d = start + tl.arange(0, BLOCK_D)
    offset = ((tl.program_id(2).to(tl.int64) * units + unit) * RANK + rank) * depth
    mask = ((unit < units) & (rank < RANK))[:, None] & (d < depth)[None, :]
    tl.store(out_ptr + offset[:, None] + d[None, :], total, mask=mask)
