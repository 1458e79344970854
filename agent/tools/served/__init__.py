"""Critique tools of MCP servers: what is sent to them, what their answers must be, and the connection."""
