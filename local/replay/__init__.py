"""A small server that answers as the public APIs do, for machines that cannot reach them.

Its payloads are invented, though of the real shape; they never change, so that a second run of the
pipeline finds everything unchanged. The past of each coin is a walk through its price, which goes
on to this day.
"""
