"""Simulated dialogues: the agents, the turns, the play."""
