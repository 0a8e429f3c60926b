"""The life of a run: opening, extracting, checkpoints, closing."""
