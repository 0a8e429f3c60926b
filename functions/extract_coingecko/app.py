"""Fetches CoinGecko's pages into raw batches."""

from marketdata.handlers.extractors import extractor
from marketdata.sources.coingecko import SOURCE

handler = extractor(SOURCE)
