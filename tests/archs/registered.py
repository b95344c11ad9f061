"""Every registered super-resolution network at the sizes that its file gives for tests; presets fix their own.

Networks without an enlargement (discriminators, features) are tested in their own files.
"""

import inspect
import sys

from basicsr.config.registry import ARCH_REGISTRY


def scale_key(name):
    """Name of the constructor's argument for the enlargement; None: it is no super-resolution network."""
    arguments = inspect.signature(ARCH_REGISTRY.get(name)).parameters
    return next((key for key in ("upscale", "scale") if key in arguments), None)


NAMES = [name for name, _ in ARCH_REGISTRY if scale_key(name)]


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
    return build(**{scale_key(name): scales(name)[0] if upscale is None else upscale}, **sizes)
