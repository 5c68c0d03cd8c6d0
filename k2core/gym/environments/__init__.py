"""The environments that need no files. A new one is a module here with a callable `make() -> Environment`."""
