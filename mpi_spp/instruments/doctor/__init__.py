"""What is wrong with the machines of a job, before it runs: facts of each rank, and findings that are made of them."""
