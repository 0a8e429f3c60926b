"""The collection `sources`: what all execution environments share about an upstream API."""
