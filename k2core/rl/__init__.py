"""Reinforcement learning with verifiable rewards and self-critique (K2 §3.2)."""
