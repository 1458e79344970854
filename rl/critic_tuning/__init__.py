"""A vision-language critic learns from explored cases, by TRL's own trainers."""
