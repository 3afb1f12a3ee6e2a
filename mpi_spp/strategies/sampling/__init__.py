"""Token selection over vocabulary shards."""
