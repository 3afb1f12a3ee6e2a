"""A server that speaks OpenAI's protocol: rank 0 has the HTTP, all ranks compute."""
