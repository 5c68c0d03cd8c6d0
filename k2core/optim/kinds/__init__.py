"""The optimisers that a recipe can name, a file each: parameters and builder. No import of torch on top."""
