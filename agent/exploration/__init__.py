"""Exploration: learning rules and prototypes from cases with known truth, as a graph around the critique's."""
