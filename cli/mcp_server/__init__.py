"""The MCP server: paths that a client may name, what is kept between its calls, the tools, and the protocol."""
