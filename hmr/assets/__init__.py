"""Files shipped with the package (the default body and policies), and the program that bakes the body."""
