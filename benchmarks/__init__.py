"""Measures ratchetkeep beside other stores, and beside what the disk can do at best.

``python -m benchmarks`` runs everything and fills ``docs/benchmarks``; ``python -m benchmarks
profile WORKLOAD`` shows where the time of one workload goes.
"""
