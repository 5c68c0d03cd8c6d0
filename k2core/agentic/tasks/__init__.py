"""Tasks with rubrics, and the judge."""
