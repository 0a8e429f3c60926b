"""Market data: extracted, normalised, loaded exactly once, and served."""
