"""Speed against the peers: `python -m benchmarks` (or `make bench`) runs every file here and rewrites results.md."""
