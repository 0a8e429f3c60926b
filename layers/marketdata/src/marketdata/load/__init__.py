"""From the rows of a batch to records in the database, exactly once."""
