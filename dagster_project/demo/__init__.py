"""Acme, a simulated company whose true owners are known: for the demo, tests and the accuracy benchmark."""
