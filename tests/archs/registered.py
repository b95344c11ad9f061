"""Every registered network at the sizes that its file gives for tests; presets fix their own."""

import sys

from basicsr.config.registry import ARCH_REGISTRY

NAMES = ARCH_REGISTRY.keys()


def has_tiny_sizes(name):
    """Whether a name stands for a class, which has sizes for tests, and not for a preset."""
    return isinstance(ARCH_REGISTRY.get(name), type)


def scales(name):
    """Enlargements to test: those of the file's `SCALES`, if it has any."""
    return getattr(sys.modules[ARCH_REGISTRY.get(name).__module__], "SCALES", (2, 3, 4))


def tiny(name, upscale=None):
    """The network, by default at its smallest enlargement."""
    build = ARCH_REGISTRY.get(name)
    sizes = sys.modules[build.__module__].TINY if has_tiny_sizes(name) else {}
    return build(upscale=scales(name)[0] if upscale is None else upscale, **sizes)
