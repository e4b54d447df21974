"""The engine: conversations over live connections. Threads live here, and only here."""
