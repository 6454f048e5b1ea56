"""The sync service: pulls users from a SCIM 2.0 provider."""
