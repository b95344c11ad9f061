"""Names and hooks for plug-ins written for BasicSR 1.4. Only old import paths use this package."""
