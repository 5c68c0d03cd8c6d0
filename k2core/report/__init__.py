"""The run as one HTML page: pictures (plotly), tables and texts to read, from the stages' files alone."""
