"""The trace of a run: its steps as tables for the terminal, and as one HTML page."""
