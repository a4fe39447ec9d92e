"""What runs gave: outputs, counters, and the tables, reports, traces and pages made of them."""
