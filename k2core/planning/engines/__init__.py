"""The recipe in the words of other people's trainers: one module each, found by this folder.

A module has `REFERENCE`, the version whose names it uses, `lost(exported)`, what the trainer cannot take over, and
`source(exported)`, the Python module that it reads.
"""
