"""K2's chat format: tokens, template, parser."""
