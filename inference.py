"""Enlarge or clean images with a trained network: `python inference.py --help`."""

from basicsr.infer import main

if __name__ == "__main__":
    raise SystemExit(main())
