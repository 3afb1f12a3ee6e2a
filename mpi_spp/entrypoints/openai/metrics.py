"""What a server tells Prometheus of itself."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counts since the server began."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.waiting = Gauge("mpi_spp_requests_waiting", "Requests in the queue", registry=registry)
        self.running = Gauge("mpi_spp_requests_running", "Requests under way", registry=registry)
        self.prompt_tokens = Counter("mpi_spp_prompt_tokens", "Tokens of prompts", registry=registry)
        self.new_tokens = Counter("mpi_spp_generation_tokens", "Tokens made", registry=registry)
        self.finished = Counter(
            "mpi_spp_requests_finished", "Requests by how they ended", ["reason"], registry=registry
        )
        self.first_token = self._seconds("mpi_spp_time_to_first_token_seconds", "From the request to its first token")
        self.next_token = self._seconds("mpi_spp_time_per_output_token_seconds", "Between two tokens of a request")

    def _seconds(self, name: str, what: str) -> Histogram:
        return Histogram(name, what, buckets=_SECONDS, registry=self._registry)

    def text(self, waiting: int, running: int) -> bytes:
        """All of it, with the queue as it is now."""
        self.waiting.set(waiting)
        self.running.set(running)
        return generate_latest(self._registry)
