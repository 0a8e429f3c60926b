"""Drift: what a source's rows look like, and where their fields are by now."""
