"""Layers that the networks share, a file each."""
