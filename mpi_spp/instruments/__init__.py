"""What looks on: traces, benchmarks, the doctor, reports. Called by faces, never by the engine."""
