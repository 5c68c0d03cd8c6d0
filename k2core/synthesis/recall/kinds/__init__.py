"""The kinds of recall documents, a file each."""
