"""Extraction: pages of an API, or ranges of a file, become batches."""
