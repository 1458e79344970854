"""Critique of several people in one photograph: what their bodies are to each other in the frame of one camera."""
