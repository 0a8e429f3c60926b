"""Fetches CoinPaprika's tickers into raw batches."""

from marketdata.handlers.extractors import extractor
from marketdata.sources.coinpaprika import SOURCE

handler = extractor(SOURCE)
