"""The optimisers that a recipe can name, one file each: parameters and builder. None imports torch at the top."""
