"""The secondary indexes of a collection, to be made again somewhere else."""

from __future__ import annotations

from pymongo import IndexModel
from pymongo.collection import Collection

from tests.support.documents import Document

_OPTIONS = ("name", "partialFilterExpression")


def secondary_indexes(collection: Collection[Document]) -> list[IndexModel]:
    """All but the one over `_id`, with what they leave out."""
    return [
        IndexModel(
            list(about["key"].items()),
            **{option: about[option] for option in _OPTIONS if option in about},
        )
        for about in collection.list_indexes()
        if about["name"] != "_id_"
    ]
