"""The canonical record: what every source's rows become."""
