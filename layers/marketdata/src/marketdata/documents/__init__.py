"""The form of every document that is stored in MongoDB, one module per collection.

Each module declares every key that its collection's documents may have, with its meaning and
unit. A document as the driver reads and writes it is a `TypedDict`: it costs nothing at run time.
What says how far a long step has got (`PageProgress`, `FileProgress`, `LoadProgress`) and what a
run knows about an input (`InputState`) are objects with `of(document)` and `document()`.

Stored names stay as they are, also where the glossary has a better word by now: during an upgrade
functions of the version before work on the same database. A key whose name is older than its word
says the word in its docstring. Attributes of the objects are named by the glossary.

A key is `NotRequired` if documents of today may lack it, or if documents that earlier versions
wrote do. A status is stored as text and read as text, so its key is a `str`; the `StrEnum` beside
it has the values that are possible, and its members equal the stored texts.

The package knows nothing of MongoDB's driver nor of the rest of the library but its errors.
"""
