"""Load, prefill, sync, decode: sequences in, tokens out, the same on every rank."""
