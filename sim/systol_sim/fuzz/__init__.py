"""Campaigns of random programs: machines, executors, expectations, reports, shrinking."""
