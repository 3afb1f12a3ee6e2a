"""Strategies that move the KV cache between layouts, one file each; the file name is the key."""
