"""Worlds: several tables that are linked by keys, and a policy. A new world is a YAML file here."""
