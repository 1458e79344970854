"""How servers with OpenAI's chat completions API differ: their settings, profiles, refused fields and cut prompts."""
