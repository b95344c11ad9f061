"""A picture that shows an enlargement beside the bicubic one: both as a whole, and parts of both, zoomed."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from basicsr.images.matlab_resize import imresize

COLUMN = 640  # px: largest width of the two columns
TALLEST = 800  # px: largest height of the whole images
GAP = 8  # px around all parts
HEAD = 34  # px: height of a caption
FRAME = 3  # px
PARTS = 2  # that are chosen, and that stand side by side
CELL = (COLUMN - GAP) // PARTS  # px: width of such a part
ZOOM = 2  # with which parts are chosen to fill their cell
MARGIN = 4  # px of the input that the bicubic kernel sees around a part, and more
BACKGROUND, INK = 255, (20, 20, 20)
COLOURS = ((230, 60, 40), (30, 130, 230), (40, 160, 70), (200, 140, 0))  # of the frames of the parts, in turn


class Box(NamedTuple):
    """A part of an image, in px of the input."""

    x: int
    y: int
    width: int
    height: int


def parse_box(text: str) -> Box:
    """`x,y,w,h` in px of the input.

    Raises:
        ValueError: for anything else.
    """
    try:
        box = Box(*(int(part) for part in text.split(",")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected x,y,w,h in px of the input, got {text!r}") from error
    if min(box) < 0 or min(box.width, box.height) < 1:
        raise ValueError(f"expected x,y,w,h with a width and height of at least 1, got {text!r}")
    return box


def busiest_boxes(image: np.ndarray, side: int, count: int = PARTS) -> list[Box]:
    """Squares of an image that hold the most detail (sum of absolute differences of neighbours) and do not meet.

    Args:
        image: (H, W, C).
        side: px of the squares; at most a side of the image counts.
        count: of squares, at most; the first has the most detail.
    """
    side = min(side, *image.shape[:2])
    gray = image.mean(axis=2, dtype=np.float32)
    detail = np.zeros_like(gray)
    detail[:, :-1] += np.abs(np.diff(gray, axis=1))
    detail[:-1] += np.abs(np.diff(gray, axis=0))
    sums = cv2.integral(detail)  # (H + 1, W + 1), float64
    within = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    boxes: list[Box] = []
    for _ in range(count):
        y, x = divmod(int(np.argmax(within)), within.shape[1])
        if within[y, x] == -np.inf:
            break
        boxes.append(Box(x, y, side, side))
        within[max(0, y - side + 1) : y + side, max(0, x - side + 1) : x + side] = -np.inf
    return boxes


def comparison(lq: np.ndarray, sr: np.ndarray, channels: int, network: str, boxes: Sequence[Box] = ()) -> np.ndarray:
    """The bicubic enlargement on the left, the output on the right, and below each the same parts, zoomed.

    Where the output is as large as the input, the input itself is on the left.

    Args:
        lq: the input, (H, W, channels) or with alpha behind, which is left out.
        sr: the output, (s*H, s*W, as many), uint8 or uint16; may lie in a file.
        channels: 3, RGB, or 1, gray.
        network: for the caption.
        boxes: parts of the input; none: those with the most detail.

    Returns:
        RGB, (rows, columns, 3) uint8.

    Raises:
        ValueError: when a part does not lie within the input.
    """
    height, width = lq.shape[:2]
    scale = sr.shape[0] // height
    for box in boxes:
        if box.x + box.width > width or box.y + box.height > height:
            raise ValueError(f"--crop {','.join(map(str, box))}: does not lie within the image of {width}x{height} px")
    lq, sr = lq[..., :channels], sr[..., :channels]
    boxes = list(boxes) or busiest_boxes(lq, max(1, (CELL - 2 * FRAME) // (ZOOM * scale)))
    shrink = min(COLUMN / sr.shape[1], TALLEST / sr.shape[0], 1.0)
    size = (max(1, round(shrink * sr.shape[1])), max(1, round(shrink * sr.shape[0])))
    columns = []
    for is_output in (False, True):
        caption = f"{network} x{scale}" if scale > 1 else network
        if not is_output:
            caption = f"bicubic x{scale}" if scale > 1 else "input"
        parts = [_part(sr, box, scale) if is_output else _bicubic_part(lq, box, scale) for box in boxes]
        whole = _resized(sr if is_output else lq, size)
        columns.append(_column(caption, _marked(_rgb8(whole), boxes, size[0] / width), [_rgb8(part) for part in parts]))
    return np.hstack(columns)


def _part(sr: np.ndarray, box: Box, scale: int) -> np.ndarray:
    return sr[scale * box.y : scale * (box.y + box.height), scale * box.x : scale * (box.x + box.width)]


def _bicubic_part(lq: np.ndarray, box: Box, scale: int) -> np.ndarray:
    """What the bicubic enlargement of the whole image has there."""
    top, left = max(0, box.y - MARGIN), max(0, box.x - MARGIN)
    around = lq[top : box.y + box.height + MARGIN, left : box.x + box.width + MARGIN]
    return _part(imresize(around, scale), box._replace(x=box.x - left, y=box.y - top), scale)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """To (width, height): averages where it gets smaller, cubic where larger."""
    shrinks = size[0] < image.shape[1]
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return resized.reshape(size[1], size[0], -1)


def _rgb8(image: np.ndarray) -> np.ndarray:
    """Three channels of 8 bits."""
    image = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    return np.ascontiguousarray(np.round(image / 257).astype(np.uint8) if image.dtype == np.uint16 else image)


def _marked(whole: np.ndarray, boxes: Sequence[Box], scale: float) -> np.ndarray:
    """With a frame around each part."""
    for i, box in enumerate(boxes):
        x, y, width, height = (round(scale * side) for side in box)
        cv2.rectangle(whole, (x, y), (x + width, y + height), COLOURS[i % len(COLOURS)], FRAME)
    return whole


def _column(caption: str, whole: np.ndarray, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Caption, image, and parts in rows of `PARTS`, on a background of the same width for every caption."""
    cell = CELL if len(parts) > 1 else COLUMN
    framed = [_framed(_zoomed(part, cell - 2 * FRAME), COLOURS[i % len(COLOURS)]) for i, part in enumerate(parts)]
    lines = [[whole], *(framed[i : i + PARTS] for i in range(0, len(framed), PARTS))]
    heights = [max(image.shape[0] for image in line) + GAP for line in lines]
    page = np.full((GAP + HEAD + sum(heights), COLUMN + 2 * GAP, 3), BACKGROUND, np.uint8)
    top = GAP + HEAD
    for line, height in zip(lines, heights, strict=True):
        left = GAP
        for image in line:
            page[top : top + image.shape[0], left : left + image.shape[1]] = image
            left += CELL + GAP
        top += height
    drawn = Image.fromarray(page)
    font = ImageFont.load_default(20)
    ImageDraw.Draw(drawn).text((GAP, GAP + HEAD // 2), caption, INK, font, anchor="lm")
    return np.array(drawn)


def _zoomed(part: np.ndarray, width: int) -> np.ndarray:
    """As often as it fits into `width`, each pixel a square; smaller where it does not fit."""
    times = width // part.shape[1]
    if times >= 1:
        return part.repeat(times, axis=0).repeat(times, axis=1)
    return _resized(part, (width, max(1, round(part.shape[0] * width / part.shape[1]))))


def _framed(part: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return cv2.copyMakeBorder(part, FRAME, FRAME, FRAME, FRAME, cv2.BORDER_CONSTANT, value=colour)
