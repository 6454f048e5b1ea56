"""The order service: takes orders exactly once."""
