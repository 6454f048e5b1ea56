"""The catalog as xDS: what to serve (resources, dialect, snapshot) and how (subscription, stream, server)."""
