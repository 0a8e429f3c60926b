"""Adapters to AWS services; nothing else in the library talks to them."""
