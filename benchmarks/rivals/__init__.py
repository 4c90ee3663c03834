"""Channel widths from other sources than PaS, trained like PaS; see ``benchmarks/accuracy.py``."""
