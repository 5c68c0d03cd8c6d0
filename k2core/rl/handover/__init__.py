"""The gym, its rewards and K2's objective for teams that train with verl or slime."""
