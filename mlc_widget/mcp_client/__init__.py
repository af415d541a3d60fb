"""Servers of the Model Context Protocol (MCP), whose tools a chat offers to its model.

What a server sends is not trusted: its descriptions, schemas and results are checked and bounded
before anything else sees them.
"""

from mlc_widget.mcp_client.server import MCPServer, mcp

__all__ = ["MCPServer", "mcp"]
