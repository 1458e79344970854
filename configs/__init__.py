"""Recipes of commands as YAML files. A package, so that they are installed with the program."""
