"""The parts of scripts/rank_masks.py."""
