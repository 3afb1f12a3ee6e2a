"""The key/value cache and who holds which part of it."""
