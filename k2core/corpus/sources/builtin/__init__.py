"""Sources that read installed packages. A new one is a module here, named as in the recipe, with

- `NAME`, the module's name, and `DOMAIN`, of `k2core.corpus.documents.DOMAINS`;
- `Source`, its section of `ingest`: a `Section` with a `limit`, where 0 leaves the source out;
- `documents(config) -> Iterator[Document]` and `installed(config)`, the packages it reads → their versions.
"""
