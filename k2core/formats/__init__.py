"""Other projects' checkpoints and configurations, to and from ours."""
