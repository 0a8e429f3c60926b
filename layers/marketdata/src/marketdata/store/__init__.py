"""MongoDB: connection, collections, indexes, and every operation on them."""
