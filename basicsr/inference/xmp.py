"""XMP packets: what an enlarged, upright copy of a picture may keep of them."""

import re
from xml.dom import XMLNS_NAMESPACE, minidom
from xml.parsers.expat import ExpatError

# Names of properties that say where a picture was taken: those of EXIF, IPTC, Photoshop, Dublin Core and drones.
LOCATION = re.compile(r"gps|latitude|longt?itude|altitude|location", re.IGNORECASE)
LOCATION_NAMES = ("City", "State", "Country", "CountryCode", "CountryName", "ProvinceState", "WorldRegion", "coverage")
# Namespaces that describe parts of the file which the copy has not: a film behind the picture, maps of gain and depth,
# and the rest of a long packet.
STALE_NAMESPACES = (
    "http://ns.google.com/photos/1.0/",
    "http://ns.google.com/videos/1.0/",
    "http://ns.adobe.com/hdr-gain-map/1.0/",
    "http://ns.apple.com/HDRGainMap/1.0/",
    "http://ns.adobe.com/xmp/note/",
)
STALE_NAMES = ("Thumbnails", "SubjectArea", "SubjectLocation")  # previews, and places in px of the input
WIDTH_NAMES, HEIGHT_NAMES = ("PixelXDimension", "ImageWidth"), ("PixelYDimension", "ImageLength")


def clean_xmp(packet: bytes, size: tuple[int, int], keep_location: bool) -> bytes | None:
    """Return an XMP packet for a copy of the picture; None when it cannot be read, so nothing in it can be removed.

    The copy is upright, has no location unless asked to keep it, and its size is the new one. Location in captions and
    keywords cannot be told from other words, and stays.

    Args:
        packet: as in the file.
        size: (H, W) of the copy in px.
        keep_location: keep properties that say where the picture was taken.
    """
    packet = packet.rstrip(b"\0 \r\n\t")
    if b"<!DOCTYPE" in packet or b"<!ENTITY" in packet:  # XMP has none; parsers can be made to fill memory by them
        return None
    try:
        document = minidom.parseString(packet)
    except (ExpatError, ValueError, LookupError):
        return None
    for node in document.childNodes:
        if isinstance(node, minidom.Element):
            _clean_element(node, size, keep_location)
    return "".join(node.toxml() for node in document.childNodes).encode()


def _clean_element(element: minidom.Element, size: tuple[int, int], keep_location: bool) -> None:
    """Remove and update properties, which are attributes or elements, in an element and all below it."""
    for attribute in list(element.attributes.values()):
        if _is_removed(attribute, keep_location):
            element.removeAttributeNode(attribute)
        elif (value := _new_value(attribute, size)) is not None:
            attribute.value = value
    for child in list(element.childNodes):
        if not isinstance(child, minidom.Element):
            continue
        if _is_removed(child, keep_location):
            element.removeChild(child)
        elif (value := _new_value(child, size)) is not None and isinstance(child.firstChild, minidom.Text):
            child.firstChild.data = value
        else:
            _clean_element(child, size, keep_location)


def _is_removed(node: minidom.Element | minidom.Attr, keep_location: bool) -> bool:
    name, namespace = node.localName or "", node.namespaceURI or ""
    if namespace == XMLNS_NAMESPACE:
        return False
    if name in STALE_NAMES or namespace.startswith(STALE_NAMESPACES):
        return True
    return not keep_location and (LOCATION.search(name) is not None or name in LOCATION_NAMES)


def _new_value(node: minidom.Element | minidom.Attr, size: tuple[int, int]) -> str | None:
    """Return the value of a property that depends on the pixels; None for others."""
    values = {"Orientation": 1, **dict.fromkeys(WIDTH_NAMES, size[1]), **dict.fromkeys(HEIGHT_NAMES, size[0])}
    value = values.get(node.localName or "")
    return None if value is None else str(value)
