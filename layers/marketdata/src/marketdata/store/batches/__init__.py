"""The collection `batches`: the checkpoint of every run, and the only source of totals."""
