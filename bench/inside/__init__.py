"""What benchmarks run inside the smoke host, as root, with the installed banger's own modules."""
