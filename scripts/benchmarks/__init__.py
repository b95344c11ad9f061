"""The parts of scripts/benchmark.py, one file for each thing that is measured."""
