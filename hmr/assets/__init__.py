"""Files that ship with the package: the default body, and the programs that made them."""
