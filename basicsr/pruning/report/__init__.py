"""Plots and the page of a search: `prune_report.html`, which needs no other file."""
