"""A picture that shows an output next to the bicubic enlargement: both as a whole, and parts of both, zoomed."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from basicsr.images.matlab_resize import imresize

COLUMN_WIDTH = 640  # px, of each of the two columns
MAX_WHOLE_HEIGHT = 800  # px, of the whole images
GAP = 8  # px around all images
CAPTION_HEIGHT = 34  # px
FRAME_WIDTH = 3  # px
CROPS_PER_ROW = 2  # and as many crops are chosen
CROP_WIDTH = (COLUMN_WIDTH - GAP) // CROPS_PER_ROW  # px, with its frame
ZOOM = 2  # chosen crops fill their width at this zoom
BICUBIC_MARGIN = 4  # px of the input around a crop; the bicubic kernel reaches 2
BACKGROUND, TEXT_COLOUR = 255, (20, 20, 20)
FRAME_COLOURS = ((230, 60, 40), (30, 130, 230), (40, 160, 70), (200, 140, 0))  # of the crops, in turn


class Box(NamedTuple):
    """A part of an image, in px of the input."""

    x: int
    y: int
    width: int
    height: int


def parse_box(text: str) -> Box:
    """Return the box of `x,y,w,h` in px of the input.

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


def busiest_boxes(image: np.ndarray, side: int, count: int = CROPS_PER_ROW) -> list[Box]:
    """Return squares with the most detail (sum of absolute differences of neighbours) that do not overlap.

    Args:
        image: (H, W, C).
        side: px of the squares, limited to the sides of the image.
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


def draw_comparison(
    lq: np.ndarray, sr: np.ndarray, channels: int, network: str, boxes: Sequence[Box] = ()
) -> np.ndarray:
    """Return the bicubic enlargement on the left, the output on the right, and below each the same crops, zoomed.

    Where the output is as large as the input, the input itself is on the left.

    Args:
        lq: the input, (H, W, channels), or with alpha as a last channel, which is left out.
        sr: the output, (s*H, s*W, as many), uint8 or uint16; may lie in a file.
        channels: 3, RGB, or 1, gray.
        network: for the caption.
        boxes: parts of the input to crop; none: those with the most detail.

    Returns:
        RGB, (rows, columns, 3) uint8.

    Raises:
        ValueError: when a box does not lie within the input.
    """
    height, width = lq.shape[:2]
    scale = sr.shape[0] // height
    for box in boxes:
        if box.x + box.width > width or box.y + box.height > height:
            raise ValueError(f"--crop {','.join(map(str, box))}: does not lie within the image of {width}x{height} px")
    lq, sr = lq[..., :channels], sr[..., :channels]
    boxes = list(boxes) or busiest_boxes(lq, max(1, (CROP_WIDTH - 2 * FRAME_WIDTH) // (ZOOM * scale)))
    shrink = min(COLUMN_WIDTH / sr.shape[1], MAX_WHOLE_HEIGHT / sr.shape[0], 1.0)
    size = (max(1, round(shrink * sr.shape[1])), max(1, round(shrink * sr.shape[0])))
    columns = []
    for is_output in (False, True):
        caption = f"{network} x{scale}" if scale > 1 else network
        if not is_output:
            caption = f"bicubic x{scale}" if scale > 1 else "input"
        crops = [_output_crop(sr, box, scale) if is_output else _bicubic_crop(lq, box, scale) for box in boxes]
        whole = _resize(sr if is_output else lq, size)
        whole = _draw_frames(_to_rgb8(whole), boxes, size[0] / width)
        columns.append(_draw_column(caption, whole, [_to_rgb8(crop) for crop in crops]))
    return np.hstack(columns)


def _output_crop(sr: np.ndarray, box: Box, scale: int) -> np.ndarray:
    return sr[scale * box.y : scale * (box.y + box.height), scale * box.x : scale * (box.x + box.width)]


def _bicubic_crop(lq: np.ndarray, box: Box, scale: int) -> np.ndarray:
    """Return a crop of the bicubic enlargement of the whole image."""
    top, left = max(0, box.y - BICUBIC_MARGIN), max(0, box.x - BICUBIC_MARGIN)
    around = lq[top : box.y + box.height + BICUBIC_MARGIN, left : box.x + box.width + BICUBIC_MARGIN]
    return _output_crop(imresize(around, scale), box._replace(x=box.x - left, y=box.y - top), scale)


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to (width, height), by averages where it gets smaller, cubic where larger."""
    shrinks = size[0] < image.shape[1]
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return resized.reshape(size[1], size[0], -1)


def _to_rgb8(image: np.ndarray) -> np.ndarray:
    """Return three channels of 8 bits."""
    image = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    return np.ascontiguousarray(np.round(image / 257).astype(np.uint8) if image.dtype == np.uint16 else image)


def _draw_frames(whole: np.ndarray, boxes: Sequence[Box], scale: float) -> np.ndarray:
    """Draw a frame around each box, in place."""
    for i, box in enumerate(boxes):
        x, y, width, height = (round(scale * side) for side in box)
        cv2.rectangle(whole, (x, y), (x + width, y + height), FRAME_COLOURS[i % len(FRAME_COLOURS)], FRAME_WIDTH)
    return whole


def _draw_column(caption: str, whole: np.ndarray, crops: Sequence[np.ndarray]) -> np.ndarray:
    """Return caption, image, and crops in rows, on a background of the same width for every caption."""
    width = CROP_WIDTH if len(crops) > 1 else COLUMN_WIDTH
    framed = [
        _add_frame(_zoom(crop, width - 2 * FRAME_WIDTH), FRAME_COLOURS[i % len(FRAME_COLOURS)])
        for i, crop in enumerate(crops)
    ]
    lines = [[whole], *(framed[i : i + CROPS_PER_ROW] for i in range(0, len(framed), CROPS_PER_ROW))]
    heights = [max(image.shape[0] for image in line) + GAP for line in lines]
    page = np.full((GAP + CAPTION_HEIGHT + sum(heights), COLUMN_WIDTH + 2 * GAP, 3), BACKGROUND, np.uint8)
    top = GAP + CAPTION_HEIGHT
    for line, height in zip(lines, heights, strict=True):
        left = GAP
        for image in line:
            page[top : top + image.shape[0], left : left + image.shape[1]] = image
            left += CROP_WIDTH + GAP
        top += height
    drawn = Image.fromarray(page)
    font = ImageFont.load_default(20)
    ImageDraw.Draw(drawn).text((GAP, GAP + CAPTION_HEIGHT // 2), caption, TEXT_COLOUR, font, anchor="lm")
    return np.array(drawn)


def _zoom(crop: np.ndarray, width: int) -> np.ndarray:
    """Repeat each pixel as often as the crop fits into `width`; a wider crop is resized."""
    times = width // crop.shape[1]
    if times >= 1:
        return crop.repeat(times, axis=0).repeat(times, axis=1)
    return _resize(crop, (width, max(1, round(crop.shape[0] * width / crop.shape[1]))))


def _add_frame(crop: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    sides = (FRAME_WIDTH, FRAME_WIDTH, FRAME_WIDTH, FRAME_WIDTH)
    return cv2.copyMakeBorder(crop, *sides, cv2.BORDER_CONSTANT, value=colour)
