"""Problems that a program solves, with public and hidden tests (K2 §3.2.1)."""
