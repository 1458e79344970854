"""Fine-tunes a vision-language critic on explored cases, with TRL's trainers."""
