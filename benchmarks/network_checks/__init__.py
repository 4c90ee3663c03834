"""What ``benchmarks/networks.py`` consists of: the networks, the checks, the page."""
