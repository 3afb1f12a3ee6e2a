"""Which ranks live and work: heartbeats, what ranks pass on of others, and the watchdog."""
