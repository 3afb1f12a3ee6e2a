"""Many prompts from a file, answered by the replicas of a job, in order and resumably."""
