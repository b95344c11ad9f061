"""Image and video files, colour, resizing and tiling, for data and inference alike."""
