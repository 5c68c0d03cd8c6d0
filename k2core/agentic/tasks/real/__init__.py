"""Tasks on real MCP servers: one file per server, named as the server is in the recipe (`tools.servers`).

A module has `DOMAIN`, a `k2core.agentic.tasks.real_domain.RealDomain`.
"""
