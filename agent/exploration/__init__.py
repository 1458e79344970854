"""Learning from cases whose truth is known: a graph of its own around the critique's."""
