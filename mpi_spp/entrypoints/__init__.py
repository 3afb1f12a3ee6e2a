"""How programs and people enter: the face for Python, and the opening of a job."""
