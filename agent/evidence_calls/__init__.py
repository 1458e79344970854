"""Evidence that is asked for by name: by a language model in a critique, or by the client of an MCP server."""
