"""The optimiser: MuonClip and learning-rate schedules (K2 §2.1)."""
