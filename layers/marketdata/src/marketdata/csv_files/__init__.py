"""CSV files: cutting them into ranges, reading a range, turning its columns into candidates.

This part knows bytes and columns; nothing of MongoDB or of AWS.
"""
