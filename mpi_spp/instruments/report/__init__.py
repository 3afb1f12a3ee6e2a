"""Timings, tables and logs. Is called, and calls nobody."""
