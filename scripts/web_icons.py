"""The icons of the phone demo: `python scripts/web.py --icons`."""

from pathlib import Path

from PIL import Image, ImageDraw

ICONS = (  # name, side in px, radius of the corners and of the disc as fractions of the side
    ("icon-192.png", 192, 0.22, 0.34),
    ("icon-512.png", 512, 0.22, 0.34),
    ("maskable-512.png", 512, 0.0, 0.28),
    ("apple-touch-180.png", 180, 0.0, 0.32),
)


def draw_icons(folder: Path) -> None:
    """Draw the icons: a disc that is made of large pixels on the left and smooth on the right."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, side, corner, disc in ICONS:
        large = draw_icon(4 * side, corner, disc)
        large.resize((side, side), Image.Resampling.BOX).save(folder / name, optimize=True)


def draw_icon(side: int, corner: float, disc: float) -> Image.Image:
    """Return the icon in `side` px, RGBA; the radii of its corners and disc are fractions of the side."""
    night, amber, cream, white = (29, 27, 24), (242, 177, 60), (247, 236, 210), (255, 255, 255)
    image = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((0, 0, side - 1, side - 1), corner * side, fill=night)
    middle, radius = side / 2, disc * side
    cells = 5  # large pixels along the radius
    cell = radius / cells
    draw.pieslice((middle - radius, middle - radius, middle + radius, middle + radius), -90, 90, fill=cream)
    for row in range(-cells, cells):
        for column in range(-cells, 0):
            if (row + 0.5) ** 2 + (column + 0.5) ** 2 <= cells**2:
                x, y = middle + column * cell, middle + row * cell
                draw.rectangle((x, y, x + cell, y + cell), fill=amber)
    half = 0.014 * side
    draw.rectangle((middle - half, middle - 1.28 * radius, middle + half, middle + 1.28 * radius), fill=white)
    return image
