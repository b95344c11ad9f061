"""Enlarge pictures and films with a trained network."""
