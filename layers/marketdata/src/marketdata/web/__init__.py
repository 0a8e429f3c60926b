"""The HTTP API: routes, answers, errors, and the document that describes them."""
