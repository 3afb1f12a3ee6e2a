"""What the machine, its files and this process say: limits, CPU, safe files, clocks, progress, logs."""
