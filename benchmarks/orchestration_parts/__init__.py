"""What ``benchmarks/orchestration.py`` runs: our sweeps, and Ray Tune without us."""
