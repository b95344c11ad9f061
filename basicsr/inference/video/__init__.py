"""Videos: read, enlarged frame by frame and written by PyAV, with everything else in the file copied.

`pipeline.enlarge_video` is the one way in. `probe` says what a file holds, `reader` gives its pictures, `color` turns
them into RGB and back, `encoder` and `segments` write them piece by piece, and `join` makes the file of the pieces and
of the other streams of the source.
"""
