"""Documents that can only be continued by reading back: passages that return, lists, records and tables.

A small model learns to copy late: after 14 million tokens of plain text, but after 3 million where a third of the rows
repeat themselves (docs/log.md). Without copying, it cannot fill in the arguments of a tool call. A kind is a
file of `kinds`: `make(random, values, text, characters)` makes one.
"""
