"""Learn which groups of a network to keep, cut the others out, and distil the teacher into the remaining network."""
